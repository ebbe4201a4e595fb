"""The product that gives scores: groups of layers give what one product gives."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")

import jax.numpy as jnp

from edgewise.patching.compiled.parts.scoring import GROUPS, Products, RunScores, cut_evenly


@pytest.mark.parametrize("times", [1, 2, 7, GROUPS, 11, 30])
@pytest.mark.parametrize("examples", [None, 2])
def test_groups_score_every_earlier_sender(times: int, examples: int | None) -> None:
    draw, n, d = np.random.default_rng(times), 4, 3
    ports, senders = 3, 2
    blocks = [draw.normal(size=(s, n, d)).astype(np.float32) for s in (1, 4, senders * times)]
    gradients = draw.normal(size=(times, ports, n, d)).astype(np.float32)
    products = Products.of([jnp.array(block) for block in blocks], examples)
    grouped = RunScores(products, 1, times)
    places = grouped.places()
    carry = grouped.start(products.flat(jnp.array(gradients[0])))
    for i in reversed(range(times)):
        at = type(places)(places.slot[i], places.group[i])
        carry = grouped.add(carry, products.flat(jnp.array(gradients[i])), at)
    found = np.moveaxis(np.asarray(carry[1]), 0, -3)  # [(B,) times, P, S]
    every = np.concatenate(blocks)
    apart = n if examples is None else n // examples
    cut = (x.reshape(*x.shape[:-2], -1, apart, d) for x in (gradients, every))
    whole = -np.einsum("tpbnd,sbnd->btps", *cut)
    whole = whole[0] if examples is None else whole
    for i in range(times):
        known = 5 + senders * (i + 1)
        assert np.allclose(found[..., i, :, :known], whole[..., i, :, :known], atol=1e-5)


def test_little_is_multiplied_only_to_be_dropped() -> None:
    for times in range(GROUPS, 100):
        groups = cut_evenly(times, GROUPS)
        done = sum(len(group) * group.stop for group in groups)
        assert [i for group in groups for i in group] == list(range(times))
        assert done <= 0.6 * times**2
