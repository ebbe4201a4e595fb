"""Known circuits shared out to processes, each of which runs all methods on some of them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError
from ..progress import SILENT, Progress

if TYPE_CHECKING:
    from ..graphs.files.tables.known import KnownFile


@typed
def score_in_processes(
    groups: Sequence[Sequence[str]],
    methods: Sequence[str],
    jobs: int,
    threads: int = 1,
    progress: Progress | None = None,
) -> KnownFile:
    """Do what `score_methods` does in so many processes; the file is the same but for seconds.

    Args:
        groups: names of known circuits; those of a group are scored in one process.
        methods: as they are typed, `eap-ig:steps=10`.
        threads: those that each process computes with.

    Raises:
        EdgewiseError: as of `score_methods`; there are fewer than one process; one was killed.
    """
    from ..graphs.files.tables.known import KnownFile

    if jobs < 1:
        raise EdgewiseError(f"{jobs} processes are asked for; accepted: 1 or more.")
    report, done = progress or SILENT, 0
    parts = list["KnownFile | None"]()
    with _processes(min(jobs, max(1, len(groups)))) as pool:
        every = [pool.submit(_score, tuple(one), tuple(methods), threads) for one in groups]
        for one in every:
            parts.append(one.result())
            done += 1
            report(done, len(every), "models with known circuits scored")
    found = [one for one in parts if one is not None]
    if not found:
        raise EdgewiseError("there is no known circuit to score methods on; accepted: one or more.")
    cases = [row for one in found for row in one.cases]
    return KnownFile(found[0].metric, cases, [row for one in found for row in one.scored])


@contextmanager
def _processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Give work to so many processes; what ends it before it is done ends them too."""
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")  # torch's threads do not outlive a fork
    pool = ProcessPoolExecutor(number, context, _leave_interrupts)
    try:
        yield pool
    except BaseException as error:
        for process in set(multiprocessing.active_children()) - before:
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise EdgewiseError(
                f"one of {number} processes was ended from outside, as a system does that is short "
                "of memory; accepted: fewer processes, or this one."
            ) from None
        raise
    pool.shutdown()


def _leave_interrupts() -> None:
    """Leave Ctrl-C, which every process gets, to the one that began them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _score(names: tuple[str, ...], methods: tuple[str, ...], threads: int) -> KnownFile | None:
    """Score methods on the circuits of these names; None if their truths decide nothing."""
    import torch

    from ..steps.claims.asked import AskedMethod
    from .cases import known_cases
    from .scoring import score_methods

    torch.set_num_threads(threads)
    cases = list(known_cases(names=names))
    return score_methods(cases, [AskedMethod.parse(one) for one in methods]) if cases else None
