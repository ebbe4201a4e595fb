"""Known circuits shared out to processes, each of which runs all methods on some of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
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
        EdgewiseError: as of `score_methods`; there are fewer than one process.
    """
    from ..graphs.files.tables.known import KnownFile

    if jobs < 1:
        raise EdgewiseError(f"{jobs} processes are asked for; accepted: 1 or more.")
    report, done = progress or SILENT, 0
    context = multiprocessing.get_context("spawn")  # torch's threads do not outlive a fork
    parts = list["KnownFile | None"]()
    with ProcessPoolExecutor(min(jobs, max(1, len(groups))), mp_context=context) as pool:
        every = [pool.submit(_score, tuple(one), tuple(methods), threads) for one in groups]
        try:
            for one in every:
                parts.append(one.result())
                done += 1
                report(done, len(every), "models with known circuits scored")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    found = [one for one in parts if one is not None]
    if not found:
        raise EdgewiseError("there is no known circuit to score methods on; accepted: one or more.")
    cases = [row for one in found for row in one.cases]
    return KnownFile(found[0].metric, cases, [row for one in found for row in one.scored])


def _score(names: tuple[str, ...], methods: tuple[str, ...], threads: int) -> KnownFile | None:
    """Score methods on the circuits of these names; None if their truths decide nothing."""
    import torch

    from ..steps.claims.asked import AskedMethod
    from .cases import known_cases
    from .scoring import score_methods

    torch.set_num_threads(threads)
    cases = list(known_cases(names=names))
    return score_methods(cases, [AskedMethod.parse(one) for one in methods]) if cases else None
