"""How well a model agrees with a causal model: behaviour, interchange and strictness.

All are shares of positions at which something is asked and the model's largest logit is the answer,
on inputs of a seed of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...graphs.calls.typed import typed
from ...graphs.lift.lifting import describe
from .causal import UNASKED, CausalModel
from .runs import AVERAGED, NOTHING, RESAMPLED, Interchange, without_nodes
from .training import idle_nodes

CARRIED = {"another input's values": RESAMPLED, "their mean": AVERAGED, "nothing": NOTHING}


@typed
@dataclass(frozen=True)
class CausalAgreement:
    """Shares of right answers among `asked` positions of `inputs` inputs.

    `interchange`: by variable, of the causal model's answers when it takes another input's value.
    `strictness`: by node that computes no variable, of the same answers as without intervention
    when the node takes another input's values. `circuit`: when all edges that the circuit has not
    carry another input's values, their mean, or nothing.
    """

    inputs: int
    asked: int
    behaviour: float
    interchange: Mapping[str, float] = field(hash=False)
    strictness: Mapping[str, float] = field(hash=False)
    circuit: Mapping[str, float] = field(hash=False)

    def __str__(self) -> str:
        """Say it in a few lines."""
        parts = [("interchange", self.interchange), ("strictness", self.strictness),
                 ("the circuit alone, else", self.circuit)]  # fmt: skip
        lines = [
            f"behaviour {self.behaviour:.4f} of {self.asked:,} answers to {self.inputs:,} inputs"
        ]
        for title, shares in parts:
            lines.append(f"{title}: " + ", ".join(f"{k} {x:.4f}" for k, x in shares.items()))
        return "\n".join(lines)


@typed
@torch.no_grad()
def agreement(
    model: Any, causal: CausalModel, inputs: int = 1000, seed: int = 1
) -> CausalAgreement:
    """Measure how well a live model agrees with a causal model, on inputs drawn by a seed."""
    lifted = describe(model)
    graph, circuit = lifted.graph, causal.circuit(lifted.graph)
    base, source = causal.draw(inputs, torch.Generator().manual_seed(seed))
    runs, answers, values = (
        Interchange(lifted, base, source),
        causal.answers(base),
        causal.run(source),
    )

    def right(logits: Tensor, wanted: Tensor) -> float:
        asked = wanted != UNASKED
        return float((logits.argmax(2) == wanted)[asked].double().mean())

    def swapped(node: str) -> Tensor:
        return runs.logits(without_nodes(graph, {node}))

    return CausalAgreement(
        inputs=inputs,
        asked=int((answers != UNASKED).sum()),
        behaviour=right(model(input_ids=base).logits, answers),
        interchange={
            one.name: right(swapped(one.node), causal.answers(base, {one.name: values[one.name]}))
            for one in causal.variables
        },
        strictness={
            node: right(swapped(node), answers) for node in sorted(idle_nodes(causal, graph))
        },
        circuit={
            carried: right(runs.logits(circuit.kept, which), answers)
            for carried, which in CARRIED.items()
        },
    )
