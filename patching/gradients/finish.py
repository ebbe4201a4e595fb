"""What every engine does with summed scores: refuse what is no number, and average."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...graphs.errors import EdgewiseError
from ...graphs.scores import Scores
from ..run.runner import Runner, refuse_nan


def finished(runner: Runner, points: Sequence[float], total: np.ndarray) -> Scores:
    """Return the scores of sums over all examples, [P, S], of gradients averaged over points."""
    reads = runner.graph.reads
    if min(points) == 0 and not runner.ablation.paired and np.isnan(total[reads]).any():
        raise EdgewiseError(
            f"the gradient where the embedding is what {runner.ablation.name} ablation gives is "
            "not a number (NaN): the slope of a norm has no bound where nothing is written. Use "
            "`midpoint`, or another method or ablation."
        )
    refuse_nan(total[reads], f"an edge's score by the metric '{runner.metric.name}'")
    return Scores(runner.graph, np.where(reads, total / len(runner.pairs), np.nan))
