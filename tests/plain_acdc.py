"""ACDC by its definition, spelled out edge by edge."""

from __future__ import annotations

import numpy as np

from edgewise.graphs.circuit import Circuit
from edgewise.patching.run.runner import Runner


def plain_acdc(
    runner: Runner, threshold: float, ports_first: bool, absolute: bool
) -> tuple[Circuit, dict[str, float]]:
    """Follow the definition: one run from scratch for each question."""
    graph = runner.graph
    circuit = Circuit.full(graph)
    current = runner.loss(circuit)
    increments = {}

    def ask(smaller: Circuit) -> tuple[bool, float]:
        rise = runner.loss(smaller) - current
        return (abs(rise) if absolute else rise) < threshold, rise

    def rows_of(layer: int, letter: str | None) -> list[int]:
        ports = [p for p in graph.ports if p.node.layer == layer and p.letter == letter]
        return [graph.port_index[p] for p in reversed(ports)]

    def dead(row: int) -> bool:
        owners = graph.feeds[row]
        return bool(owners) and not circuit.kept[:, list(owners)].any()

    order = [[len(graph.ports) - 1]]
    for layer in reversed(range(graph.layers)):
        order.append(rows_of(layer, None))
        order.append([row for letter in "vkq" for row in rows_of(layer, letter)])
    for rows in filter(None, order):
        if ports_first and graph.ports[rows[0]].letter:
            for row in rows:
                whole = [graph.edge_at(row, int(c)) for c in np.flatnonzero(circuit.kept[row])]
                if not dead(row):
                    falls, rise = ask(circuit.without(whole))
                    if falls:
                        circuit, current = circuit.without(whole), current + rise
        for row in rows:
            for column in np.flatnonzero(circuit.kept[row])[::-1]:
                edge = graph.edge_at(row, int(column))
                if dead(row):
                    circuit = circuit.without([edge])
                    continue
                falls, rise = ask(circuit.without([edge]))
                if falls:
                    circuit, current = circuit.without([edge]), current + rise
                else:
                    increments[str(edge)] = rise
    return circuit, increments
