"""The hidden units of an MLP that matter most, how much of its part they do, and what they write.

1. Units are ranked by |mean direct effect| on the pairs of one runner; the first `top` are chosen
   (see `patching.heads.neurons`).
2. On *other* pairs the MLP is patched along `m{l}->logits`, then the chosen units alone, then all
   others: how much worse the metric becomes, and which share of the MLP's part that is. Beside it
   stand random sets of as many units.
3. What the chosen units add to some tokens' logits there, of prompts with equal answers together.

Source: Hanna et al. 2023 for the questions. Intervals are those of faithfulness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.uncertainty.bootstrap import Estimate, faithfulness_estimate, mean_estimate
from ...graphs.calls.typed import typed
from ...graphs.errors import EdgewiseError
from ...graphs.example_scores import clusters_of

if TYPE_CHECKING:
    from ...patching.run.runner import Runner

TOP = 10
"""How many units are chosen unless told otherwise."""

DRAWS = 20
"""How many random sets of as many units stand beside them."""


@dataclass(frozen=True)
class UnitEffect:
    """One unit: its direct effect on the answers, and what it adds to tokens' logits on average."""

    unit: int
    direct: Estimate
    adds: tuple[float, ...]


@dataclass(frozen=True)
class NeuronsFound:
    """What the chosen units of one MLP do on held-out pairs.

    `part`: how much worse the metric is with the MLP patched; `chosen`, `others`: which share of
    that comes of the chosen units alone, and of all others alone; `random`: shares of random sets.
    `together`: by the answers of prompts, as tokens' ids, what the chosen units add to the logits
    of `tokens`, less the mean over these.
    """

    layer: int
    units: tuple[UnitEffect, ...]
    part: Estimate
    chosen: Estimate
    others: Estimate
    random: tuple[float, ...]
    tokens: tuple[int, ...]
    together: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]

    def as_dict(self) -> dict[str, object]:
        """Return everything as plain values."""
        units = [
            {"unit": f"m{self.layer}.n{one.unit}", "direct": one.direct.as_dict(), "adds": one.adds}
            for one in self.units
        ]
        shares = {key: getattr(self, key).as_dict() for key in ("part", "chosen", "others")}
        together = [{"answers": list(a), "adds": list(values)} for a, values in self.together]
        about = {"mlp": f"m{self.layer}", "units": units, **shares, "random": list(self.random)}
        return {**about, "tokens": list(self.tokens), "together": together}


@typed
def neurons_found(
    runner: Runner,
    held_out: Runner,
    layer: int,
    tokens: Sequence[int] = (),
    *,
    top: int = TOP,
    draws: int = DRAWS,
    seed: int = 0,
) -> NeuronsFound:
    """Choose the units of a layer's MLP that matter on some pairs, and measure them on others."""
    from ...patching.heads.neurons import unit_effects, unit_logits, unit_patches

    effects = unit_effects(runner, layer)
    number = len(effects)
    if not 0 < top < number:
        raise EdgewiseError(f"top is {top}; accepted: 1 to {number - 1:,}, as m{layer} has units.")
    chosen = np.argsort(-np.abs(effects.mean(1)), kind="stable")[:top].tolist()
    rest = sorted(set(range(number)) - set(chosen))
    rng = np.random.default_rng(seed)
    random = [rng.choice(number, top, replace=False).tolist() for _ in range(draws)]
    clean, whole, own, others, *drawn = unit_patches(
        held_out, layer, [[], None, chosen, rest, *random]
    )
    sign = 1 if held_out.metric.larger_is_better else -1
    clusters, nothing = clusters_of(held_out.pairs.groups), np.zeros_like(clean)

    def share(patched: np.ndarray) -> Estimate:
        return faithfulness_estimate(
            clean - whole, clean - patched, nothing, clusters, held_out.floor
        )

    direct = unit_effects(held_out, layer)[chosen]
    added = unit_logits(held_out, layer, chosen, tokens)  # [n, E, V]
    added = added - added.mean(-1, keepdims=True) if tokens else added
    units = tuple(
        UnitEffect(unit, mean_estimate(values, clusters), tuple(adds.mean(0).tolist()))
        for unit, values, adds in zip(chosen, direct, added, strict=True)
    )
    shares = (share(one).value for one in drawn)
    return NeuronsFound(
        layer, units, mean_estimate(sign * (clean - whole), clusters), share(own), share(others),
        tuple(one for one in shares if one is not None), tuple(tokens),
        _by_answers(held_out, added.sum(0)),
    )  # fmt: skip


def _by_answers(
    runner: Runner, added: np.ndarray
) -> tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]:
    """Average what is added, [E, V], over the prompts with the same answers."""
    answers = [tuple(pair.answers) for pair in runner.pairs]
    found = []
    for one in sorted(set(answers), key=lambda ids: (len(ids), ids)):
        rows = [place for place, ids in enumerate(answers) if ids == one]
        found.append((one, tuple(added[rows].mean(0).tolist())))
    return tuple(found)
