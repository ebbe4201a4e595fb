"""Hypotheses of paths: all paths of a circuit are the circuit; paths that part are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge
from edgewise.patching.path_tree import path_tree, path_values
from edgewise.patching.paths import Path
from edgewise.patching.run.chunk import Chunk
from edgewise.patching.run.runner import Runner
from edgewise.patching.trace import at_answers
from tests.engine import naive_run, naive_values, tiny_lift, tiny_pairs, whole

FAMILIES = ["gpt2", "llama", "gpt-neox", "gemma2", "mixtral"]


def all_paths(circuit: Circuit) -> list[Path]:
    """List every path of kept edges from the embedding to `logits`."""
    graph = circuit.graph
    to: dict[int, list[tuple[Edge, ...]]] = {0: [()]}
    into: list[tuple[Edge, ...]] = []
    for row, feeds in enumerate(graph.feeds):
        into = [
            (*path, graph.edge_at(row, int(column)))
            for column in np.flatnonzero(circuit.kept[row])
            for path in to.get(int(column), [])
        ]
        for sender in feeds:
            to.setdefault(sender, []).extend(into)
    return [Path(edges[0].sender, edges, str(edges)) for edges in into]


def some_circuit(graph: ComputationGraph, seed: int, share: float = 0.62) -> Circuit:
    drawn = np.random.default_rng(seed).random(graph.reads.shape) < share
    return Circuit(graph, graph.reads & drawn)


@pytest.mark.parametrize("name", FAMILIES)
def test_all_paths_of_a_circuit_are_the_circuit(name: str) -> None:
    runner = Runner.create(tiny_lift(name), tiny_pairs(lengths=(5, 6)), metric="nll", batch_size=1)
    circuit = some_circuit(runner.graph, seed=3)
    paths = all_paths(circuit)
    assert len(paths) > 10
    (kept,), (empty,) = (
        runner.measure_each([c])[0] for c in (circuit, Circuit.empty(runner.graph))
    )
    (found,) = path_values(runner, [paths])
    assert found == pytest.approx(kept)
    assert not np.allclose(found, empty)


@pytest.mark.parametrize("grouped", [False, True])
def test_all_paths_are_the_model_and_no_path_the_corrupted_run(grouped: bool) -> None:
    runner = Runner.create(tiny_lift("llama", grouped_kv=grouped), tiny_pairs(), metric="nll")
    graph = runner.graph
    last = [f"{node}->logits" for node in graph.senders]
    paths = [path for text in last for path in Path.parse(text, graph)]
    ends = runner.measure_each([Circuit.full(graph), Circuit.empty(graph)])[0]
    assert path_values(runner, [paths, []]) == pytest.approx(ends)
    assert path_values(runner, [[], paths], without=True) == pytest.approx(ends)


def test_without_all_paths_of_the_model_nothing_is_left() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(lengths=(4, 5)), metric="nll")
    everything = all_paths(some_circuit(runner.graph, seed=0, share=2))
    empty = runner.measure_each([Circuit.empty(runner.graph)])[0]
    assert path_values(runner, [everything], without=True) == pytest.approx(empty)


def by_definition(runner: Runner, chunk: Chunk) -> Tensor:
    """Run `a0.h1` on clean tokens for the keys of `a1.h0` alone, and add up what follows."""
    model, graph, batch = runner.model, runner.graph, chunk.batch
    clean, other = (naive_values(model, i, whole(chunk)) for i in (batch.clean, batch.corrupted))
    at = {name: graph.sender_index[Edge.parse(f"{name}->logits").sender] for name in
          ("embed", "a0.h1", "a1.h0")}  # fmt: skip

    def run(ids: Tensor, values: list[Tensor], cut: str) -> list[Tensor]:
        mask = torch.ones(graph.reads.shape, dtype=torch.float64)
        mask[graph.locate(Edge.parse(cut))] = 0
        return naive_run(model, ids, whole(chunk), values, mask)[0]

    # in the corrupted run, the embedding's clean value at one port, or the first head's at another
    values = [clean[i] if i == at["embed"] else v for i, v in enumerate(other)]
    first = run(batch.corrupted, values, "embed->a0.h1<v>")[at["a0.h1"]]
    values = [first if i == at["a0.h1"] else v for i, v in enumerate(other)]
    second = run(batch.corrupted, values, "a0.h1->a1.h0<k>")[at["a1.h0"]]
    ones = torch.ones(graph.reads.shape, dtype=torch.float64)
    _, final = naive_run(model, batch.corrupted, whole(chunk), other, ones)
    return final + second - other[at["a1.h0"]]


def test_a_path_changes_only_what_lies_on_it() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="nll")
    (chunk,) = runner.chunks()
    paths = Path.parse("embed->a0.h1<v>->a1.h0<k>->logits", runner.graph)
    logits = runner.model.logits(
        at_answers(by_definition(runner, chunk), chunk.batch.answer_position)
    )
    expected = runner.metric.loss(logits, chunk.target)
    assert float(path_values(runner, [paths]).mean()) == pytest.approx(float(expected.mean()))


def test_paths_that_part_behind_a_head_are_told_apart() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="nll")
    graph = runner.graph
    texts = ["embed->a0.h1<v>->a1.h0<k>->logits", "embed->a0.h1<q>->logits"]
    paths = [path for text in texts for path in Path.parse(text, graph)]
    circuit = Circuit.empty(graph).with_edges(edge for path in paths for edge in path.edges)
    crossed = all_paths(circuit)  # each of the two begins as the other, too
    assert len(crossed) == 4
    two, four = path_values(runner, [paths, crossed])
    assert four == pytest.approx(runner.measure_each([circuit])[0][0])
    assert not np.allclose(two, four)


def test_a_path_that_starts_at_a_head_takes_it_whole() -> None:
    graph = ComputationGraph(layers=2, heads=2)
    texts = ["a0.h0->logits", "embed->a0.h0<v>->logits", "embed->a0.h0<v>->m1->logits"]
    paths = [path for text in texts for path in Path.parse(text, graph)]
    for order in (paths, paths[::-1]):
        tree = path_tree(graph, order)
        assert tree[graph.sender_index[paths[0].start]] is None
        assert len(tree) == 2


def test_batches_and_other_hypotheses_do_not_matter() -> None:
    model, pairs = tiny_lift("llama"), tiny_pairs(lengths=(5, 3, 6))
    runners = [Runner.create(model, pairs, metric="nll", batch_size=size) for size in (1, 3)]
    graph = runners[0].graph
    sets = [
        Path.parse(text, graph)
        for text in ("embed->a1.*<q>->logits", "a0.h2->a1.h1<k>->logits", "m0->m1->logits")
    ]
    together = path_values(runners[0], sets)
    for i, paths in enumerate(sets):
        assert path_values(runners[1], [paths])[0] == pytest.approx(together[i])


def test_nothing_to_test_is_refused() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs())
    with pytest.raises(EdgewiseError, match="no hypothesis is given; accepted: one or more sets"):
        path_values(runner, [])
