"""Effects along routes: the same as path patching of named paths, and as circuits without edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.names import Edge, Node
from edgewise.patching.heads import routes as routes_module
from edgewise.patching.heads.along import Route
from edgewise.patching.heads.routes import LOGITS, direct_effects, route_effects, together
from edgewise.patching.paths import Path, patch_paths
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.runner import Runner
from tests.configs import EVERY
from tests.edgewise.conftest import id_rows, tiny

ABLATIONS = ("resample", "zero")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> object:
    return describe(tiny(request.param))


def runner(model: object, ablation: str = "resample", **options: object) -> Runner:
    rows = id_rows()
    keys = ("clean_ids", "corrupted_ids", "answer_ids", "distractor_ids")
    pairs = (Pair(*(tuple(row[key]) for key in keys)) for row in rows)
    return Runner.create(
        model, PromptPairs(tuple(pairs)), metric="logit_diff", ablation=ablation, **options
    )


def route(graph: object, *paths: str) -> Route:
    found = [one for path in paths for one in Path.parse(path, graph)]
    return Route(found[0].start, frozenset(edge for one in found for edge in one.edges))


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_a_route_is_its_paths_together(model: object, ablation: str) -> None:
    run = runner(model, ablation, batch_size=4)
    texts = [
        ("a0.h1->a1.h0<q>->logits",),
        ("a0.h0->a1.h1<k>->logits", "a0.h0->a1.h1<v>->logits", "a0.h0->a1.h0<v>->logits"),
        ("m0->a1.h0<q>->logits", "m0->a1.h0<q>->m1->logits"),
        ("embed->logits",),
        ("a1.h0->logits",),
    ]
    effects = route_effects(run, [route(run.graph, *one) for one in texts])
    assert effects.shape == (5, 6)
    for one, values in zip(texts, effects, strict=True):
        (named,) = patch_paths(run, list(one), together=True)
        assert values.mean() == pytest.approx(named.effect, abs=1e-5)
    assert np.abs(effects).max() > 1e-3


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_direct_effects_are_exact(model: object, ablation: str) -> None:
    run = runner(model, ablation)
    senders = list(run.graph.senders)
    found = direct_effects(run, senders)
    full = run.mask_losses_each(run.graph.reads[None])[0]
    for node, values in zip(senders, found, strict=True):
        without = Circuit.full(run.graph) - Circuit.empty(run.graph).with_edges([f"{node}->logits"])
        assert values == pytest.approx(run.mask_losses_each(without.kept[None])[0] - full, abs=1e-5)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_direct_effects_with_nodes_cut_are_exact(model: object, ablation: str) -> None:
    run = runner(model, ablation)
    cut = [Node.parse("a0.h1"), Node.parse("m0")]
    found = direct_effects(run, run.graph.senders, cut)
    kept = run.graph.reads.copy()
    kept[:, [run.graph.sender_index[node] for node in cut]] = False
    base = run.mask_losses_each(kept[None])[0]
    for column, values in enumerate(found):
        less = kept.copy()
        less[-1, column] = False
        assert values == pytest.approx(run.mask_losses_each(less[None])[0] - base, abs=1e-5)
    assert found[[run.graph.sender_index[node] for node in cut]] == pytest.approx(0, abs=1e-5)


def test_all_routes_of_a_sender_are_its_activation_patched(model: object) -> None:
    run = runner(model)
    for node in run.graph.senders[1:-1]:
        edges = frozenset(e for e in Circuit.full(run.graph).edges if e.sender == node)
        behind, known = set(edges), {node}
        for port in run.graph.ports:
            if any(edge.port == port for edge in behind) and port != LOGITS:
                for column in run.graph.feeds[run.graph.port_index[port]]:
                    sender = run.graph.senders[column]
                    known.add(sender)
                    out = (e for e in Circuit.full(run.graph).edges if e.sender == sender)
                    behind |= set(out)
        effect = route_effects(run, [Route(node, frozenset(behind))])[0].mean()
        without = run.graph.reads.copy()
        without[:, run.graph.sender_index[node]] = False
        exact = run.mask_losses(np.stack([without, run.graph.reads]))
        assert effect == pytest.approx(exact[0] - exact[1], abs=1e-5)


def test_starts_on_the_way_of_others_run_apart() -> None:
    through = Route(Node.parse("a0.h0"), frozenset({Edge.parse("a0.h0->a1.h0<q>"),
                                                    Edge.parse("a1.h0->logits")}))  # fmt: skip
    own = Route(Node.parse("a1.h0"), frozenset({Edge.parse("a1.h0->logits")}))
    assert list(together([own, through, own])) == [[0, 2], [1]]
    assert list(together([through] * 5, most=2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    "name", ["qwen3-biases-windows", "gpt-neox", "phi", "cohere", "olmo", "falcon", "gpt2", "opt"]
)
def test_heads_alone_are_followed_as_whole_runs_are(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(key for key in sorted(EVERY) if key == name or key.startswith(f"{name}-"))
    config, kind, changes = EVERY[found]
    torch.manual_seed(0)
    model = describe(kind(config(**changes)).eval())
    graph, last = model.graph, model.graph.layers - 1
    draw = np.random.default_rng(0)
    rows = (draw.integers(3, 12, (2, length)).tolist() for length in (6, 5, 7, 6))
    pairs = (Pair((1, *a), (1, *a[:2], *b[2:]), (4,), (5,)) for a, b in rows)
    run = Runner.create(model, PromptPairs(tuple(pairs)), metric="logit_diff", batch_size=3)
    texts = [(f"embed->a{last}.h0<{letter}>->logits",) for letter in "qkv"]
    texts += [(f"a0.h1->a{last}.h0<q>->logits", f"a0.h1->a{last}.h1<v>->logits"),
              (f"embed->a0.h0<k>->a{last}.h1<q>->logits", "embed->a0.h0<k>->logits"),
              (f"embed->a0.h1<q>->a{last}.h0<v>->logits",)]  # fmt: skip
    routes = [route(graph, *one) for one in texts]
    fast = route_effects(run, routes)
    monkeypatch.setattr(routes_module, "can_follow", lambda *_: False)
    slow = route_effects(run, routes)
    assert fast == pytest.approx(slow, abs=2e-5)
    assert np.abs(slow).max() > 1e-4
