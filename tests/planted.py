"""A model in which a known set of edges, and no other, has an effect."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.lift.lifted import LiftedModel
from edgewise.graphs.lift.plain import plain_block, plain_model
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner

LAYERS, HEADS, VOCABULARY, OWN, INNER = 2, 2, 12, 6, 12

PLANTED = (
    "embed->a0.h0<q>", "embed->a0.h0<k>", "embed->a0.h0<v>", "embed->m0", "a0.h0->m0",
    "embed->a1.h1<q>", "a0.h0->a1.h1<k>", "m0->a1.h1<v>", "m0->logits", "a1.h1->logits",
)  # fmt: skip
"""Every node in it is reached from `embed` and reaches `logits`; each head has all three inputs."""


def planted_model(edges: Iterable[str] = PLANTED, seed: int = 0) -> LiftedModel:
    """Build a model without norms, each of whose senders writes into dimensions of its own.

    A port reads those of the senders it has an edge from, and no others.
    """
    graph = ComputationGraph(layers=LAYERS, heads=HEADS)
    draw = torch.Generator().manual_seed(seed)
    kept = Circuit.empty(graph).with_edges(list(edges)).kept
    width = OWN * len(graph.senders)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    def reading(port: str, rows: int) -> Tensor:
        """Return random weights [rows, D] on what a port reads, 0 elsewhere."""
        row = [str(one) for one in graph.ports].index(port)
        seen = torch.from_numpy(kept[row].repeat(OWN))
        return random(rows, width) * seen / max(1, int(seen.sum())) ** 0.5

    def writing(sender: str, columns: int) -> Tensor:
        """Return random weights [D, columns] into what is a sender's own, 0 elsewhere."""
        at = [str(one) for one in graph.senders].index(sender)
        own = torch.zeros(width, 1, dtype=torch.float64)
        own[OWN * at : OWN * (at + 1)] = 1.0
        return random(width, columns) * own * (2.0 / columns**0.5)

    blocks = []
    for layer in range(LAYERS):
        heads = [f"a{layer}.h{h}" for h in range(HEADS)]
        q, k, v = (torch.stack([reading(f"{h}<{x}>", OWN) for h in heads]) for x in "qkv")
        blocks.append(
            plain_block(
                wq=3 * q,
                wk=3 * k,
                wv=v,
                wo=torch.stack([writing(h, OWN).T for h in heads]),
                up=2 * reading(f"m{layer}", INNER),
                down=writing(f"m{layer}", INNER),
            )
        )
    tokens = random(VOCABULARY, width)
    tokens[:, OWN:] = 0
    return plain_model(tokens=tokens, blocks=blocks, unembed=2 * reading("logits", VOCABULARY))


def planted_pairs(count: int = 16, length: int = 5, seed: int = 0) -> PromptPairs:
    """Draw pairs of random tokens."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randint(VOCABULARY, (count, 2, length), generator=draw).tolist()
    pairs = (Pair(tuple(a), tuple(b), (a[-1],), ((a[-1] + 1) % VOCABULARY,)) for a, b in rows)
    return PromptPairs(tuple(pairs))


def planted_runner(metric: str = "kl", ablation: str = "resample", **options: str) -> Runner:
    """Return a runner of the planted model."""
    return Runner.create(
        planted_model(), planted_pairs(), metric=metric, ablation=ablation, **options
    )


def planted_circuit(graph: ComputationGraph) -> Circuit:
    """Return the circuit that is planted."""
    return Circuit.empty(graph).with_edges(list(PLANTED))
