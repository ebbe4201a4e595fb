"""A transformer written by hand that names the name not repeated, each head of it known.

Prompts are [start, name, filler, name, filler, name, filler, end]; tokens 0 is the start, 1 to 8
are names, 9 to 12 fillers, 13 the end. Of its four layers of three heads, all but these write
nothing:

* a0.h0, duplicate token: from a name to the same name before it; says so (flag 1).
* a0.h1, previous token: from a filler to the name before it, which it copies beside the stream.
* a1.h0, induction: from a name to the filler behind the same name, by a0.h1's copy; flag 2.
* a2.h0, S-inhibition: from the end to the last name if both flags stand there; copies the name.
* a2.h1 attends as a2.h0 does and writes nothing.
* a3.h0, name mover: from the end to the names but the one that a2.h0 copied; writes 3 of it.
* a3.h1, negative name mover: attends in the same way; writes −1 of it.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from edgewise.graphs.lift.classes.plain import classes
from edgewise.patching.prompts.pairs import Pair, PromptPairs

NAMES, FILLERS, END, LENGTH = range(1, 9), range(9, 13), 13, 8
NAME, PLACE, COPY, FLAG, INHIBIT, OUT = 0, 8, 16, 24, 26, 34  # where each part of the stream begins
WIDTH, HEAD, SHARP = 42, 10, 400.0  # SHARP of scores' steps: the softmax takes the largest


def hand_made() -> Any:
    """Build the model."""
    config, model = classes()
    made = model(
        config(
            vocab_size=14, hidden_size=WIDTH, num_hidden_layers=4, num_attention_heads=3,
            head_dim=HEAD, intermediate_size=4, max_position_embeddings=24,
        )
    )  # fmt: skip
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
        for i, token in enumerate(NAMES):
            made.tokens.weight[token, NAME + i] = 1
            made.unembed.weight[token, OUT + i] = 1
        made.positions.weight[:LENGTH, PLACE : PLACE + LENGTH] = torch.eye(LENGTH)
        heads = {(layer, h): _Head(made.layers[layer], h) for layer in range(4) for h in range(3)}
        every = {PLACE + i: 1.0 for i in range(LENGTH)}
        names = {i: {NAME + i: 1.0} for i in range(8)}
        duplicate = heads[0, 0]
        duplicate.asks(names | {8: every})
        duplicate.offers(names | {8: {PLACE + 1: 1, PLACE + 3: 1, PLACE: 1.5}})
        duplicate.copies({0: {PLACE + 1: 1, PLACE + 3: 1}}, {0: {FLAG: 1}})
        previous = heads[0, 1]
        previous.asks({0: {PLACE + 2: 1}, 1: {PLACE + 4: 1}})
        previous.offers({0: {PLACE + 1: 1}, 1: {PLACE + 3: 1}})
        previous.copies(names, {i: {COPY + i: 1.0} for i in range(8)})
        induction = heads[1, 0]
        induction.asks(names | {8: every})
        induction.offers({i: {COPY + i: 1.0} for i in range(8)} | {8: {PLACE: 0.5}})
        induction.copies({0: {PLACE + 2: 1, PLACE + 4: 1}}, {0: {FLAG + 1: 1}})
        for h, size in enumerate((1.0, 0.0)):
            inhibition = heads[2, h]
            inhibition.asks({0: {PLACE + 7: 1}})
            inhibition.offers({0: {PLACE + 5: 0.5, FLAG: 0.5, FLAG + 1: 0.5, PLACE: 1.2}})
            inhibition.copies(names, {i: {INHIBIT + i: size} for i in range(8)})
        for h, size in enumerate((3.0, -1.0)):
            mover = heads[3, h]
            mover.asks({i: {INHIBIT + i: -1.0} for i in range(8)} | {8: {PLACE + 7: 1}})
            mover.offers(names | {8: {PLACE + 1: 1, PLACE + 3: 1}})
            mover.copies(names, {i: {OUT + i: size} for i in range(8)})
    return made.eval()


class _Head:
    """Write one head's weights, by its own dimension and the stream's."""

    def __init__(self, layer: Any, head: int) -> None:
        self.layer, self.rows = layer, slice(head * HEAD, (head + 1) * HEAD)

    def asks(self, weights: dict[int, dict[int, float]]) -> None:
        self._fill(self.layer.query.weight[self.rows], weights, SHARP)

    def offers(self, weights: dict[int, dict[int, float]]) -> None:
        self._fill(self.layer.key.weight[self.rows], weights)

    def copies(
        self, read: dict[int, dict[int, float]], written: dict[int, dict[int, float]]
    ) -> None:
        self._fill(self.layer.value.weight[self.rows], read)
        self._fill(self.layer.output.weight[:, self.rows].T, written)

    @staticmethod
    def _fill(into: torch.Tensor, weights: dict[int, dict[int, float]], size: float = 1) -> None:
        for own, row in weights.items():
            for at, value in row.items():
                into[own, at] = size * value


def hand_made_pairs(count: int = 24, seed: int = 0) -> PromptPairs:
    """Draw pairs; the corrupted prompts have three other names, none of them twice."""
    draw, found = random.Random(seed), []
    for number in range(count):
        io, s, *others = draw.sample(list(NAMES), 5)
        order = ("ABBA", "BABA")[number % 2]
        first, second = (io, s) if order == "ABBA" else (s, io)
        a, b, c = (draw.choice(list(FILLERS)) for _ in range(3))
        clean = (0, first, a, second, b, s, c, END)
        corrupted = (0, others[0], a, others[1], b, others[2], c, END)
        spans = (("io", clean.index(io)), ("s1", clean.index(s)), ("s2", 5), ("end", 7))
        declared = tuple(sorted(spans, key=lambda one: one[1]))
        # template: order and a tag, so that several clusters are there
        group = f"{order}{number // 2 % 3}"
        found.append(Pair(clean, corrupted, (io,), (s,), group=group, declared=declared))
    return PromptPairs(tuple(found), name="hand-made")
