"""Mixtures of experts: a router sends each token to a few of a layer's experts.

Each expert is a sender of its own. It writes its output times the weight that the router gives it,
and zero at tokens where it is not among the chosen. The router and the experts read the same port.

Which experts are chosen is a piecewise constant function of the port: a derivative is that of the
chosen branch, and goes through the router's weights and through the experts.

Shape letters: N any leading axes, D d_model, E experts, I features inside one, n experts wanted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .mlp import ACTIVATIONS, MLP, PLAIN, Activation, Functions
from .norms import Norm, normalise, working_dtype


@dataclass(frozen=True)
class SharedExpert:
    """An MLP that every token runs through, times sigmoid(gate · x) if there is a `gate`, [1, D].

    Several shared experts whose weights lie one behind the other are one MLP.
    """

    mlp: MLP
    gate: Tensor | None = None
    functions: Functions = PLAIN

    def __call__(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what the shared expert writes, [N, D]."""
        out = self.mlp(x)
        if self.gate is None:
            return out
        return self.functions.multiply(functional.linear(x, self.gate).sigmoid(), out)


SCORES = {
    "all": "",
    "chosen": "softmax of the chosen",
    "sigmoid": "sigmoid",
    "sparsemixer": "masked",
}
"""What a router can make of its logits (see `Routing`), and what that is called, if not usual."""


@dataclass(frozen=True)
class Routing:
    """How a router's logits choose experts and weigh them, where that is not as usual.

    `bias` [E] is added to logits; `softcap` c bends them to c·tanh(·/c); `wide`: they are computed
    in float32 at least. `score`: an expert's score is its share in the softmax over "all" logits,
    in that over the "chosen" ones alone, or the "sigmoid" of its logit; "sparsemixer" takes one
    after the other, each by the softmax over what is left and not behind by 2·`jitter` of its size.

    The experts of largest score + `correction` [E] (or logit + it, if `early`) are chosen; their
    weights are the scores without it. With `groups` of experts only those in the `open_groups`
    groups count whose `best` largest sums are largest together. If weights are renormalised, they
    are divided by their sum + `epsilon`, which is at least `least`. `scale`, and `scales` [E] of
    each, multiply what is left.
    """

    score: str = "all"
    bias: Tensor | None = None
    softcap: float | None = None
    wide: bool = False
    jitter: float = 0.0
    correction: Tensor | None = None
    early: bool = False
    groups: int = 1
    open_groups: int = 1
    best: int = 1
    epsilon: float = 0.0
    least: float = 0.0
    scale: float = 1.0
    scales: Tensor | None = None

    def logits(self, router: Tensor, x: Tensor) -> Tensor:
        """Return the logits of tokens x [N, D], [N, E], in float32 at least."""
        bias, wide = self.bias, working_dtype(x.dtype)
        if self.wide:
            x, router = x.to(wide), router.to(wide)
            bias = None if bias is None else bias.to(wide)
        logits = functional.linear(x, router, bias).to(wide)
        return logits if self.softcap is None else (logits / self.softcap).tanh() * self.softcap

    def choose(self, logits: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
        """Return the scores of the chosen experts of each token, [N, chosen], and which."""
        if self.score == "sparsemixer":
            return self._one_after_the_other(logits, chosen)
        scores = logits
        if self.score != "chosen":
            scores = logits.sigmoid() if self.score == "sigmoid" else logits.softmax(-1)
        ranked = logits if self.early else scores
        ranked = ranked if self.correction is None else ranked + self.correction
        if self.groups > 1:
            ranked = self._open(ranked)
        expert = ranked.topk(chosen, -1).indices
        weight = scores.gather(-1, expert)
        return (weight.softmax(-1) if self.score == "chosen" else weight), expert

    def weigh(self, weight: Tensor, expert: Tensor, renormalise: bool) -> Tensor:
        """Return the weights of chosen experts from their scores, both [N, chosen]."""
        if renormalise:
            total = weight.sum(-1, keepdim=True) + self.epsilon
            weight = weight / (total.clamp(min=self.least) if self.least else total)
        weight = weight if self.scale == 1 else weight * self.scale
        return weight if self.scales is None else weight * self.scales[expert]

    def _open(self, ranked: Tensor) -> Tensor:
        """Put the experts of closed groups last."""
        apart = ranked.unflatten(-1, (self.groups, -1))
        best = apart.topk(self.best, -1).values.sum(-1)
        closed = torch.ones_like(best, dtype=torch.bool)
        closed = closed.scatter(-1, best.topk(self.open_groups, -1).indices, False)
        open_alone: Tensor = apart.masked_fill(closed[..., None], -torch.inf).flatten(-2)
        return open_alone

    def _one_after_the_other(self, logits: Tensor, chosen: int) -> tuple[Tensor, Tensor]:
        """Choose as in Liu et al. 2024 (sparsemixer-v2), in evaluation."""
        left, weights, experts = logits, [], []
        for _ in range(chosen):
            top, expert = left.detach().max(-1, keepdim=True)
            behind = (top - logits.detach()) / torch.maximum(logits.detach().abs(), top)
            near = left.masked_fill(behind > 2 * self.jitter, -torch.inf)
            weights.append(near.softmax(-1).gather(-1, expert))
            experts.append(expert)
            left = left.scatter(-1, expert, -torch.inf)
        return torch.cat(weights, -1), torch.cat(experts, -1)

    @property
    def words(self) -> str:
        """Say what is unusual."""
        said = [SCORES[self.score]] if SCORES[self.score] else []
        if self.groups > 1:
            said.append(f"from {self.open_groups} of {self.groups} groups")
        if self.correction is not None:
            said.append("corrected scores")
        return ", ".join(said)


@dataclass(frozen=True)
class Clamp:
    """Keep a gate under `limit`, and what it gates in −`limit` … `limit`, plus `offset`.

    With `alpha` the gate's activation is g·sigmoid(alpha·g).
    """

    limit: float
    alpha: float | None = None
    offset: float = 0.0
    functions: Functions = PLAIN

    def __call__(self, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        """Return what goes into the last projection, from both projections before it."""
        gate, up = gate.clamp(max=self.limit), up.clamp(-self.limit, self.limit)
        act, alpha = ACTIVATIONS[activation], self.alpha
        if alpha is not None:
            act = Activation(lambda g: g * (g * alpha).sigmoid(), lambda g: (g * alpha).sigmoid())
        return self.functions.multiply(self.functions.activate(act, gate), up + self.offset)


@dataclass(frozen=True)
class Experts:
    """One layer's router and experts; each is down(act(gate(x)) · up(x)), or down(act(up(x))).

    `router`: [E, D]; `gate` (or None), `up`: [E, I, D]; `down`: [E, D, I]; biases: [E, I], [E, D].
    Each token goes to the `chosen` experts of largest softmax(router · x), the expert's weight,
    where `routing` says nothing else; `renormalise` divides the chosen weights by their sum. They
    are computed in float32 at least and, if `round_weights`, rounded to the type of x before use.
    They multiply what experts write, or what they read if `weigh_input`. `output_scale` multiplies
    what all write, the shared one too. Where a norm stands behind their sum they are one sender,
    `together`. In front of the router and of the experts there can be norms of their own.
    """

    router: Tensor
    gate: Tensor | None
    up: Tensor
    down: Tensor
    chosen: int
    activation: str
    renormalise: bool
    round_weights: bool = True
    shared: SharedExpert | None = None
    routing: Routing = Routing()
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    clamp: Clamp | None = None
    weigh_input: bool = False
    output_scale: float = 1.0
    together: bool = False
    router_norm: Norm | None = None
    experts_norm: Norm | None = None
    functions: Functions = PLAIN

    @property
    def bias(self) -> Tensor | None:
        """Return the biases of the experts' first projections."""
        return self.up_bias

    @property
    def count(self) -> int:
        """Count the experts, without the shared one."""
        return self.router.shape[0]

    @property
    def senders(self) -> int:
        """Count the experts that are senders of their own, without the shared one."""
        return 0 if self.together else self.count

    @property
    def features(self) -> int:
        """Count the numbers that a backward pass keeps of one token."""
        shared = 0 if self.shared is None else self.shared.mlp.features
        own = self.chosen * (4 * self.up.shape[1] + 2 * self.up.shape[2])
        return 2 * self.count + own + shared

    @property
    def words(self) -> str:
        """Say what this is."""
        scale = ", weights renormalised" if self.renormalise else ""
        scale += f", {self.routing.words}" if self.routing.words else ""
        shared = " and a shared one" if self.shared is not None else ""
        kind = "plain" if self.gate is None else "gated"
        clamp = "" if self.clamp is None else f", kept in ±{self.clamp.limit:g}"
        clamp += ", all one sender" if self.together else ""
        return (
            f"{self.chosen} of {self.count} experts for each token{scale}{shared}, "
            f"{kind}, {self.activation}{clamp}"
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Map normalised features [N, D] to what all experts write together, [N, D]."""
        flat = x.reshape(-1, x.shape[-1])
        _, tokens, parts = zip(*self._parts(flat, range(self.count)), strict=True)
        out = torch.zeros_like(flat).index_add(0, torch.cat(tokens), torch.cat(parts))
        return self._scaled(out if self.shared is None else out + self.shared(flat)).view_as(x)

    def outputs(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        """Return what each expert (or `only` these, in order) writes of x [N, D], [n, N, D]."""
        if self.together:
            return self(x)[None]
        flat = x.reshape(-1, x.shape[-1])
        every = self.count + (self.shared is not None)
        wanted = range(every) if only is None else only
        routed = [i for i in wanted if i < self.count]
        found = list(self._parts(flat, routed)) if routed else []
        out = flat.new_zeros(len(routed) * len(flat), flat.shape[-1])
        if found:
            rows = torch.cat([place * len(flat) + token for place, token, _ in found])
            out = out.index_copy(0, rows, torch.cat([part for _, _, part in found]))
        out = out.view(len(routed), *x.shape)
        if self.shared is not None and len(wanted) > len(routed):
            out = torch.cat((out, self.shared(x)[None]))
        return self._scaled(out)

    def _scaled(self, out: Tensor) -> Tensor:
        return out if self.output_scale == 1 else out * self.output_scale

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weights of the chosen experts of tokens x [N, D], and which they are."""
        logits = self.routing.logits(self.router, normalise(self.router_norm, x))
        weight, expert = self.routing.choose(logits, self.chosen)
        weight = self.routing.weigh(weight, expert, self.renormalise)
        return weight.to(x.dtype) if self.round_weights else weight, expert

    def _parts(self, x: Tensor, wanted: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the place in `wanted`, the tokens, and the writes there, of experts with tokens."""
        weight, chosen = self.route(x)
        x = normalise(self.experts_norm, x)
        for place, expert in enumerate(wanted):
            token, choice = (chosen == expert).nonzero(as_tuple=True)
            if not len(token):
                continue
            own = weight[token, choice, None]
            if self.weigh_input:
                read = self.functions.multiply(x[token], own)
                out = self._write(expert, read.to(x.dtype))
            else:
                out = self.functions.multiply(self._write(expert, x[token]), own)
            yield place, token, out.to(x.dtype)

    def _write(self, expert: int, x: Tensor) -> Tensor:
        """Return what one expert makes of tokens [n, D], [n, D]."""

        def project(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
            return functional.linear(x, weight[expert], None if bias is None else bias[expert])

        act, use = ACTIVATIONS[self.activation], self.functions
        up = project(self.up, self.up_bias, x)
        if self.gate is None:
            inner = use.activate(act, up)
        else:
            gate = project(self.gate, self.gate_bias, x)
            if self.clamp is not None:
                inner = self.clamp(gate, up, self.activation)
            else:
                inner = use.multiply(use.activate(act, gate), up)
        return project(self.down, self.down_bias, inner)


@dataclass(frozen=True)
class Beside:
    """A plain MLP and a mixture that read one port, each between norms of its own; one sender."""

    mlp: MLP
    mlp_norm: Norm | None
    mlp_post_norm: Norm | None
    experts: Experts
    experts_post_norm: Norm | None

    def __call__(self, x: Tensor) -> Tensor:
        """Map what the port holds, [N, D], to what both write together, [N, D]."""
        plain = normalise(self.mlp_post_norm, self.mlp(normalise(self.mlp_norm, x)))
        return plain + normalise(self.experts_post_norm, self.experts(x))

    def outputs(self, x: Tensor, only: Sequence[int] | None = None) -> Tensor:
        """Return what each of the layer's senders writes, [1, N, D]; see `Experts.outputs`."""
        return self(x)[None]

    @property
    def features(self) -> int:
        """Count the numbers that a backward pass keeps of one token."""
        return self.mlp.features + self.experts.features + 4 * self.experts.up.shape[2]

    @property
    def words(self) -> str:
        """Say what this is."""
        return f"{self.mlp.words}, and beside it {self.experts.words}"

    @property
    def bias(self) -> Tensor | None:
        """Return the bias of the first projection."""
        return self.mlp.bias
