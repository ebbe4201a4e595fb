"""The gradient of the loss in what every port holds, for any circuit, and in every edge's gate.

The dense runner adds an offset of zero to each live port's stream and differentiates in it. For the
full circuit `attribution` has the same gradients for far less; this is for circuits.

An edge's gate g says to which degree it is kept: a port holds  base + Σ_u g_u (o_u − a_u).  So
∂loss/∂g of the edge u→p is (o_u − a_u) · ∂loss/∂x_p, all taken in the gated run itself: one product
of what senders write with the gradients at ports, and no tensor for each edge.

Shapes: B examples, T positions of the chunk's window, D d_model, P ports, S senders.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...graphs.circuit import Circuit
from ...graphs.lift.devices import place, send, summing
from ...graphs.names import Kind, Port
from ..run.chunk import Chunk
from ..run.masked_run import run_noting
from ..run.plan import Plan, make_gated_plan, make_plan
from ..run.runner import Runner

TENSORS_PER_PORT = 8
"""About how many tensors of a stream's size a port's norm and projections keep for a gradient."""


@dataclass(frozen=True)
class _Taken:
    """One run: losses [B], by row ∂(summed loss)/∂x_p [B, T, D], and by column deltas."""

    losses: Tensor
    gradients: dict[int, Tensor]
    deltas: dict[int, Tensor]


def port_gradients(runner: Runner, chunk: Chunk, circuit: Circuit) -> dict[Port, Tensor]:
    """Return ∂(summed loss)/∂x_p at every port with a path to `logits`, [B, T, D].

    Of an MLP that is given something past the stream, that stands behind it, [B, T, D + P].
    """
    runner.require_plain("the gradient at ports of circuits")
    graph = runner.graph
    ports, _ = graph.live(circuit.kept)
    rows = [int(row) for row in ports.nonzero()[0]]
    plan = make_plan(graph, circuit.kept[None], consistent=False, apart=True)
    found = _differentiate(runner, chunk, plan, rows).gradients
    return {graph.ports[row]: gradient for row, gradient in found.items()}


def gate_gradients(runner: Runner, gates: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean loss under gates, float [P, S] from 0 to 1, and its gradient in each gate.

    Both are 0 where no edge exists. The runner's batches should be of `gated_batch` examples.
    """
    runner.require_plain("the gradient in gates")
    graph, plan = runner.graph, make_gated_plan(runner.graph, gates)
    device, dtype = summing(runner.model.tokens)
    loss = torch.zeros((), dtype=dtype, device=device)
    total = torch.zeros(graph.reads.shape, dtype=dtype, device=device)
    places = torch.empty(0, dtype=torch.int64, device=device)
    for chunk in runner.chunks():
        found = _differentiate(runner, chunk, plan, list(range(len(graph.ports))))
        loss += found.losses.to(loss).sum()
        rows, columns = list(found.gradients), list(found.deltas)
        own = (found.gradients[row][..., : runner.model.d_model] for row in rows)  # [B, T, D] each
        at_ports = torch.stack([gradient.flatten() for gradient in own])  # [P, B·T·D]
        written = torch.stack([found.deltas[u].detach() for u in columns])  # [S, B·T·D]
        there = send(np.array(rows)[:, None] * graph.size[1] + np.array(columns), places)
        total.view(-1).index_add_(0, there.flatten(), (at_ports @ written.T).to(total).flatten())
        for row, gradient in found.gradients.items():  # the embedding's edge carries more
            past, layer = gradient[..., runner.model.d_model :], graph.ports[row].node.layer
            if past.numel() and layer is not None:
                total[row, 0] += (past * chunk.given_delta[layer]).to(total).sum()
    count = len(runner.pairs)
    return float(loss) / count, np.where(graph.reads, total.cpu().numpy() / count, 0.0)


def gated_batch(runner: Runner) -> int:
    """Return how many examples fit in memory at once where every port is differentiated."""
    ports, senders = runner.graph.size
    longest = max(pair.longest * len(pair.runs) for pair in runner.pairs)
    each = longest * runner.model.d_model * 4 * (senders + TENSORS_PER_PORT * ports)
    return max(1, min(runner.batch_size, runner.budget.gates // each))


def _differentiate(runner: Runner, chunk: Chunk, plan: Plan, rows: list[int]) -> _Taken:
    """Run a plan that tells ports apart, and differentiate the summed loss at some ports."""
    runner.metric.require_gradient(at_clean_only=False)
    streams = chunk.base.streams
    offsets = {}
    for row in rows:
        node = runner.graph.ports[row].node
        wide = node.kind is Kind.MLP and node.layer is not None
        like = streams.mlp[node.layer or 0] if wide else streams.final
        offsets[row] = torch.zeros_like(like, requires_grad=True)
    with torch.enable_grad():
        final, deltas = run_noting(chunk.world, plan, offsets)
        losses = runner.metric.loss(chunk.logits_with_grad(final)[0], chunk.target)
    # a port whose only live experts no token is sent to is not in the loss: its gradient is 0
    found = torch.autograd.grad(losses.sum(), list(offsets.values()), materialize_grads=True)
    own = {sender: place(delta, streams.final.device) for sender, delta in deltas.items()}
    return _Taken(losses.detach(), dict(zip(rows, found, strict=True)), own)
