"""How many processes may compute at once: what this machine allows, not what it has."""

from __future__ import annotations

import math
import os
from pathlib import Path

MOST_WORKERS = 8
"""More need more memory than they save time."""


def allowed(root: Path = Path("/")) -> int:
    """Count the processors that may be used: those of the affinity, within the groups' quotas."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        count = os.cpu_count() or 1
    return max(1, min([count, *(math.ceil(quota) for quota in quotas(root))]))


def quotas(root: Path) -> list[float]:
    """List how many processors each control group around this process may use at most."""
    lines = _read(root / "proc/self/cgroup").splitlines()
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controllers and "cpu")
        here = top / group.lstrip("/")
        for folder in {top, here, *(one for one in here.parents if top in one.parents)}:
            if controllers:  # version 1: -1 is no limit
                limits = [_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
            else:
                limits = _read(folder / "cpu.max").split() or ["max", "100000"]
            if limits[0].strip() not in ("", "max", "-1"):
                found.append(int(limits[0]) / int(limits[1]))
    return found


def workers(threads: int, root: Path = Path("/")) -> int:
    """Return how many processes of so many threads fill the allowed processors, and no more."""
    return max(1, min(allowed(root) // threads, MOST_WORKERS))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
