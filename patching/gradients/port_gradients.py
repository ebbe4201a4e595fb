"""The gradient of the loss in what every port holds, for any circuit.

The dense runner adds an offset of zero to each live port's stream and differentiates in it. For the
full circuit `attribution` has the same gradients for far less; this is for circuits.

Shapes: B examples, T positions of the chunk's window, D d_model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...graphs.circuit import Circuit
from ...graphs.names import Kind, Port
from ..run.chunk import Chunk
from ..run.masked_run import run_masked
from ..run.plan import make_plan
from ..run.runner import Runner


def port_gradients(runner: Runner, chunk: Chunk, circuit: Circuit) -> dict[Port, Tensor]:
    """Return ∂(summed loss)/∂x_p at every port with a path to `logits`, [B, T, D].

    Of an MLP that is given something past the stream, that stands behind it, [B, T, D + P].
    """
    runner.metric.require_gradient(at_clean_only=False)
    graph = runner.graph
    ports, _ = graph.live(circuit.kept)
    rows = [int(row) for row in ports.nonzero()[0]]
    plan = make_plan(graph, circuit.kept[None], consistent=False, apart=True)
    streams = chunk.base.streams
    offsets = {}
    for row in rows:
        node = graph.ports[row].node
        wide = node.kind is Kind.MLP and node.layer is not None
        like = streams.mlp[node.layer or 0] if wide else streams.final
        offsets[row] = torch.zeros_like(like, requires_grad=True)
    with torch.enable_grad():
        logits = chunk.logits_with_grad(run_masked(chunk.world, plan, 1, offsets))[0]
        loss = runner.metric.loss(logits, chunk.target).sum()
    # a port whose only live experts no token is sent to is not in the loss: its gradient is 0
    found = torch.autograd.grad(loss, list(offsets.values()), materialize_grads=True)
    return {graph.ports[row]: gradient for row, gradient in zip(rows, found, strict=True)}
