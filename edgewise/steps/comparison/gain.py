"""A donor's gain over a receiver on the same prompts, and which share of it a run carries.

Both have 95% intervals over prompts, by template where there are enough of them (see
`discovery.uncertainty.bootstrap`): the gain as a mean, a share as a ratio of two means that are
drawn together. A gain of less than two standard errors can be divided by no more than one that is
rounding: shares of it are undefined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.uncertainty.bootstrap import (
    Estimate,
    faithfulness_estimate,
    mean_estimate,
    standard_error,
)
from ...graphs.example_scores import clusters_of

if TYPE_CHECKING:
    from ...patching.transplant.transplant import Transplant


@dataclass(frozen=True, eq=False)
class MeasuredGain:
    """What receiver and donor measure on every example, float64 [examples] each.

    `clusters`: which examples share a template; `floor`: how far rounding alone may move a mean.
    """

    receiver: np.ndarray
    donor: np.ndarray
    clusters: np.ndarray
    floor: float

    @staticmethod
    def of(both: Transplant) -> MeasuredGain:
        """Take both models' values of a transplant."""
        clusters = clusters_of(both.pairs.groups)
        return MeasuredGain(both.receiver_each, both.donor_each, clusters, both.rounding)

    def estimate(self) -> Estimate:
        """Estimate the gain, m(donor) − m(receiver)."""
        return mean_estimate(self.donor - self.receiver, self.clusters)

    @property
    def error(self) -> float | None:
        """Return the gain's standard error; None of a single prompt."""
        found = standard_error(self.donor - self.receiver, self.clusters)
        return found if math.isfinite(found) else None

    def share(self, values: np.ndarray) -> Estimate:
        """Estimate which share of the gain a run carries, of its values [examples]."""
        return faithfulness_estimate(self.donor, values, self.receiver, self.clusters, self.floor)
