"""How many workers test at once: never more than affinity and control groups allow."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest
from tests.processors import MOST_WORKERS, allowed, quotas, workers


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, []),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        # the limit of a group around this one counts too
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, [2]),
        ("4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n",
         {"cpu/a/cpu.cfs_quota_us": "50000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, [0.5]),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, []),
    ],
)  # fmt: skip
def test_quotas_of_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: list[float]
) -> None:
    root = machine(tmp_path, groups, {f"sys/fs/cgroup/{name}": t for name, t in files.items()})
    assert quotas(root) == expected


def test_workers_times_threads_are_at_most_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert allowed(tmp_path) == 6
    assert [workers(threads, tmp_path) for threads in (1, 2, 4, 9)] == [6, 3, 1, 1]
    machine(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": "250000 100000"})
    assert (allowed(tmp_path), workers(1, tmp_path), workers(2, tmp_path)) == (3, 3, 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000")
    assert workers(1, tmp_path) == MOST_WORKERS


@pytest.mark.parametrize(("asked", "threads"), [(4, "1"), (None, "2")])
def test_workers_that_share_the_processors_have_one_thread_each(
    monkeypatch: pytest.MonkeyPatch, asked: int | None, threads: str
) -> None:
    """What the first process sets, its workers inherit."""
    for name in ("OMP_NUM_THREADS", "PYTEST_XDIST_WORKER"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    chosen: Any = SimpleNamespace(
        getoption=lambda name, *_: asked if name != "--fast" else False,
        addinivalue_line=lambda *_: None,
    )
    assert conftest.pytest_xdist_auto_num_workers() == workers(1)
    conftest.pytest_configure(chosen)
    assert os.environ["OMP_NUM_THREADS"] == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    conftest.pytest_configure(chosen)
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert conftest.pytest_xdist_auto_num_workers() == workers(3)
