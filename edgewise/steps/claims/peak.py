"""The most memory that a piece of work took, above what stood before it."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class PeakMemory:
    """Note the peak of a card's memory, or of this process's resident memory, within a block.

    `bytes`: above what was held when it began; None where the system does not tell (a processor
    elsewhere than on Linux, other devices than CUDA's).
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        self.bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        import torch

        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = int(torch.cuda.memory_allocated(self._device))
        elif self._device.type == "cpu":
            _give_back()
            try:
                _CLEAR.write_text("5")  # the peak begins anew
            except OSError:
                return self
            self._before = _resident("VmRSS")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import torch

        if self._before is None:
            return
        peak: int | None
        if self._device.type == "cuda":
            peak = int(torch.cuda.max_memory_allocated(self._device))
        else:
            peak = _resident("VmHWM")
        self.bytes = None if peak is None else max(0, peak - self._before)


def _give_back() -> None:
    """Return memory that is free to the system, or the next block would take it unseen."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def _resident(name: str) -> int | None:
    """Read an entry of this process's status, in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return 1024 * int(found[0]) if found else None
