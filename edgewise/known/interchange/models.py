"""Two causal models, and where their variables stand in a model of two layers, three heads each.

`fraction`: at every position, which fraction of the tokens so far is token 0. The first MLP finds
the token, a head of the second layer averages, the last MLP names the fraction.

`recall`: keys and values in turn, then keys again; behind each, the value that stood behind it. A
head of the first layer writes which token stood before; one of the second looks, by its keys, for
the place whose previous token is the present one, and copies what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor

from .causal import UNASKED, CausalModel, Variable

LETTERS, LONG = 6, 6
FRACTIONS = sorted({Fraction(a, b) for b in range(1, LONG + 1) for a in range(b + 1)})
"""What `fraction` answers, the first as token LETTERS."""

KEYS, VALUES, STORED = 6, 6, 4
"""Tokens that are keys, and those that are values, behind them; how many of either a prompt has."""


def fraction() -> CausalModel:
    """Return the causal model of the fraction of previous tokens.

    >>> ids = torch.tensor([[0, 3, 0, 0]])
    >>> [str(FRACTIONS[token - LETTERS]) for token in fraction().answers(ids)[0]]
    ['1', '1/2', '2/3', '3/4']
    """
    tokens = [[LETTERS + FRACTIONS.index(Fraction(min(a, b), b)) for a in range(LONG + 1)]
              for b in range(1, LONG + 1)]  # fmt: skip
    table = torch.tensor(tokens)  # [length − 1, how many]

    def draw(count: int, generator: torch.Generator) -> Tensor:
        often = torch.rand(2, count, 1, generator=generator)
        others = torch.randint(1, LETTERS, (2, count, LONG), generator=generator)
        return others.where(torch.rand(2, count, LONG, generator=generator) > often, 0)

    def name(ids: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return table[torch.arange(ids.shape[1]), values["how many"]]

    variables = (
        Variable("is 0", "m0", lambda ids, _: (ids == 0).long()),
        Variable("how many", "a1.h2", lambda _, values: values["is 0"].cumsum(1)),
        Variable("fraction", "m1", name),
    )
    edges = ("embed->m0", "m0->a1.h2<v>", "a1.h2->m1", "m1->logits")
    return CausalModel("fraction", variables, edges, draw, LETTERS + len(FRACTIONS), LONG)


def recall() -> CausalModel:
    """Return the causal model of the value that stood behind a key.

    A source has the same keys as its base, in another order, so that a key is always found.

    >>> recall().answers(torch.tensor([[3, 7, 5, 9, 5, 3]])).tolist()
    [[-100, -100, -100, -100, 9, 7]]
    """

    def draw(count: int, generator: torch.Generator) -> Tensor:
        def shuffled(x: Tensor) -> Tensor:
            return x.gather(1, torch.rand(x.shape, generator=generator).argsort(1))

        keys = shuffled(torch.arange(KEYS).expand(count, KEYS))[:, :STORED]

        def one() -> Tensor:
            values = torch.randint(KEYS, KEYS + VALUES, (count, STORED), generator=generator)
            return torch.cat(
                (torch.stack((shuffled(keys), values), 2).flatten(1), shuffled(keys)), 1
            )

        return torch.stack((one(), one()))

    def previous(ids: Tensor, _: Mapping[str, Tensor]) -> Tensor:
        return torch.nn.functional.pad(ids[:, :-1], (1, 0), value=-1)

    def found(ids: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """Answer keys where exactly one token so far stands behind the same."""
        behind = (values["previous"][:, None] == ids[:, :, None]).tril()  # [B, asking, asked]
        asked = (behind.sum(2) == 1) & (ids < KEYS)
        return ids.gather(1, behind.long().argmax(2)).where(asked, UNASKED)

    variables = (
        Variable(
            "previous",
            "a0.h1",
            lambda ids, _: torch.nn.functional.pad(ids[:, :-1], (1, 0), value=-1),
        ),
        Variable("found", "a1.h2", found),
    )
    edges = (
        "embed->a0.h1<q>", "embed->a0.h1<k>", "embed->a0.h1<v>", "a0.h1->a1.h2<k>",
        "embed->a1.h2<q>", "embed->a1.h2<v>", "a1.h2->logits",
    )  # fmt: skip
    return CausalModel("recall", variables, edges, draw, KEYS + VALUES, 2 * STORED + 1)


CAUSAL_MODELS = {made().name: made for made in (fraction, recall)}
"""What makes each, by its name."""
