"""Methods side by side: agreement by hand, areas, the file, the picture, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.measures.agreement import AskedEdges, agreement, agreement_of_nodes
from edgewise.discovery.registry import methods as registered
from edgewise.experiment.spec import DiscoverySpec
from edgewise.graphs.errors import EdgewiseError, FileFormatError, GraphMismatch
from edgewise.graphs.files.tables.methods import MethodsFile, read_methods, write_methods
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.session import open_model, open_split
from edgewise.steps.claims.asked import AskedMethod, Asking, GivenScores
from edgewise.steps.claims.methods import RANDOM, compare_methods, run_method
from edgewise.visualize.charts.methods import COLOURS, draw_methods
from tests.edgewise.conftest import Run, id_rows

GRAPH = ComputationGraph(layers=2, heads=2)
MODEL = "gpt2"
KL = DiscoverySpec.usual(metric="kl")  # by which full model and no edge differ on every pair


def scores_of(values: np.ndarray) -> Scores:
    """Put one number an edge, in the mask's order, on the graph."""
    found = np.full(GRAPH.reads.shape, np.nan)
    found[GRAPH.reads] = values
    return Scores(GRAPH, found)


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=GRAPH.edge_count)


def pairs_file(folder: Path, number: int) -> Path:
    """Write so many pairs of token ids."""
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows(number)))
    return path


# -- agreement ----------------------------------------------------------------------------------


def test_scores_agree_with_themselves() -> None:
    effects = scores_of(drawn(0))
    asked = AskedEdges.of(GRAPH, effects.top(5).kept, 10)
    found = agreement(effects, effects, asked, 5)
    assert found.pearson.value == pytest.approx(1)
    assert found.spearman.value == pytest.approx(1)
    assert (found.overlap, found.sign, found.missed) == (1, 1, 0)
    opposite = agreement(scores_of(-drawn(0)), effects, asked, 5)
    assert opposite.pearson.value == pytest.approx(-1)
    assert (opposite.overlap, opposite.sign) == (1, 0)


def test_agreement_of_all_edges_is_that_of_scipy() -> None:
    from scipy.stats import pearsonr, spearmanr

    a, b = drawn(1), drawn(1) + drawn(2)
    everything = AskedEdges.of(GRAPH, GRAPH.reads, 10)
    found = agreement(scores_of(a), scores_of(b), everything, 7)
    assert found.pearson.value == pytest.approx(pearsonr(a, b).statistic)
    assert found.spearman.value == pytest.approx(spearmanr(a, b).statistic)
    rest = np.arange(len(b)) != np.abs(b).argmax()
    assert found.rest.value == pytest.approx(pearsonr(a[rest], b[rest]).statistic)
    both = set(np.argsort(-np.abs(a))[:7]) & set(np.argsort(-np.abs(b))[:7])
    assert found.overlap == pytest.approx(len(both) / 7)


def test_drawn_edges_stand_for_those_that_were_not_asked() -> None:
    certain = scores_of(drawn(0)).top(4).kept
    asked = AskedEdges.of(GRAPH, certain, 10, seed=3)
    assert asked.every.sum() == 14
    assert asked.weights.sum() == pytest.approx(GRAPH.edge_count)
    assert set(asked.weights) == {1.0, (GRAPH.edge_count - 4) / 10}
    more = AskedEdges.of(GRAPH, certain, 10_000)
    assert (more.every == GRAPH.reads).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_weighted_correlations_are_those_of_repeated_edges(seed: int) -> None:
    """An edge of weight 2 counts as two equal ones."""
    from edgewise.discovery.measures.agreement import _pearson, _spearman

    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, size=(2, 12)).astype(float)
    times = rng.integers(1, 4, size=12)
    again = np.repeat(a, times), np.repeat(b, times)
    ones = np.ones(len(again[0]))
    for measure in (_pearson, _spearman):
        once = measure(a, b, times.astype(float))
        assert once == pytest.approx(measure(*again, ones), nan_ok=True)


def test_an_unbiased_estimate_of_the_whole_graphs_correlation() -> None:
    a, b = drawn(5), drawn(5) + 0.5 * drawn(6)
    whole = agreement(scores_of(a), scores_of(b), AskedEdges.of(GRAPH, GRAPH.reads, 0), 5)
    certain = scores_of(a).top(5).kept
    found = [
        agreement(scores_of(a), scores_of(b), AskedEdges.of(GRAPH, certain, 25, seed), 5)
        for seed in range(40)
    ]
    assert np.mean([one.pearson.value for one in found]) == pytest.approx(
        whole.pearson.value, abs=0.04
    )
    inside = [one.rest.low <= (whole.rest.value or 0) <= one.rest.high for one in found]
    assert np.mean(inside) > 0.7


def test_agreement_of_nodes_is_that_of_scipy() -> None:
    from scipy.stats import pearsonr, spearmanr

    rng = np.random.default_rng(3)
    a = rng.normal(size=len(GRAPH.senders))
    b = a + rng.normal(size=len(a))
    found = agreement_of_nodes(Scores.of_nodes(GRAPH, a), Scores.of_nodes(GRAPH, b), 4)
    assert found.pearson.value == pytest.approx(pearsonr(a, b).statistic)
    assert found.spearman.value == pytest.approx(spearmanr(a, b).statistic)
    rest = np.arange(len(b)) != np.abs(b).argmax()
    assert found.rest.value == pytest.approx(pearsonr(a[rest], b[rest]).statistic)
    both = set(np.argsort(-np.abs(a))[:4]) & set(np.argsort(-np.abs(b))[:4])
    assert (found.overlap, found.missed) == (len(both) / 4, 0)


# -- what is asked ------------------------------------------------------------------------------


def test_a_method_is_read_with_its_options() -> None:
    one = AskedMethod.parse(" eap-ig:steps=3:midpoint=true ")
    assert (one.label, one.method) == ("eap-ig:steps=3:midpoint=true", "eap-ig")
    assert one.options["steps"] == 3
    assert one.options["midpoint"] is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eap-gi", "unknown method 'eap-gi'"),
        ("eap-ig:steps", "'steps' of 'eap-ig:steps' is no option; accepted: NAME=VALUE"),
        ("eap-ig:step=3", "step"),
        ("eap-ig:steps=many", "steps"),
        ("eap-ig:midpoint=maybe", "midpoint"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(EdgewiseError, match=message):
        AskedMethod.parse(text)


# -- on a tiny model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> MethodsFile:
    """Compare exact effects with two gradients, a search and random scores."""
    folder = tmp_path_factory.mktemp("methods")
    rows = pairs_file(folder, 12)
    session = open_model(models[MODEL])
    pairs = open_split(session, str(rows), examples=6, test=6)
    asked = [
        AskedMethod.parse(name) for name in ("exact", "clean-corrupted", "eap-ig:steps=2", "acdc")
    ]
    asking = Asking(sizes=(3, 10), drawn=15, top=5)
    return compare_methods(session, pairs, asked, KL, asking)


def test_exact_effects_agree_with_themselves(compared: MethodsFile) -> None:
    rows = {row["method"]: row for row in compared.methods}
    assert list(rows) == ["exact", "clean-corrupted", "eap-ig:steps=2", "acdc", RANDOM]
    exact = rows["exact"]
    assert exact["Pearson"] == pytest.approx(1, abs=1e-4)
    assert exact["Spearman"] == pytest.approx(1, abs=1e-3)
    assert (exact["top"], exact["sign"]) == (1, 1)
    assert exact["alike"] is not None
    assert exact["passes"] is not None
    assert (rows[RANDOM]["passes"], rows[RANDOM]["alike"]) == (None, None)
    assert abs(rows[RANDOM]["Pearson"] or 0) < 0.9


def test_searches_have_a_circuit_in_place_of_a_curve(compared: MethodsFile) -> None:
    rows = {row["method"]: row for row in compared.methods}
    assert rows["acdc"]["CPR"] is None
    assert rows["acdc"]["Pearson"] is None
    assert rows["acdc"]["edges"] is not None
    assert rows["exact"]["edges"] is None
    assert {row["method"] for row in compared.sizes} == {*rows} - {"acdc"}
    assert {3, 10} <= {row["edges"] for row in compared.sizes}


def test_areas_are_those_of_evaluate(
    compared: MethodsFile, edgewise: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    rows = pairs_file(tmp_path, 12)
    asked = ["--task", rows, "--examples", 6, "--test", 6, "--method", "clean-corrupted"]
    asked += ["--metric", "kl", "-o"]
    edgewise(
        "discover", "--model", models[MODEL], *asked, tmp_path / "c.json", "--top", 5, "--scores"
    )
    shown = json.loads(edgewise("evaluate", tmp_path / "c.json", "--curve", "--json").stdout)
    own = {row["method"]: row for row in compared.methods}["clean-corrupted"]
    for name in ("cpr", "cmd"):
        assert dict(own)[name.upper()] == pytest.approx(shown["curve"][name])


def test_a_notebook_shows_a_line(compared: MethodsFile) -> None:
    said = f"MethodsFile(exact, clean-corrupted, eap-ig:steps=2, acdc, {RANDOM}; "
    assert repr(compared).startswith(said)
    assert len(repr(compared)) < 200


def test_a_file_is_read_as_it_was_written(compared: MethodsFile, tmp_path: Path) -> None:
    write_methods(tmp_path / "m.json", compared)
    again = read_methods(tmp_path / "m.json")
    assert again.as_dict() == compared.as_dict()
    assert again.comparison["engine"]["name"] == "torch"
    write_methods(tmp_path / "n.json", again)
    assert (tmp_path / "m.json").read_bytes() == (tmp_path / "n.json").read_bytes()


def test_a_file_that_contradicts_itself_is_refused(compared: MethodsFile, tmp_path: Path) -> None:
    twice = replace(compared, methods=[*compared.methods, compared.methods[0]])
    write_methods(tmp_path / "m.json", twice)
    with pytest.raises(FileFormatError, match="two methods have the same name"):
        read_methods(tmp_path / "m.json")
    strange = replace(compared, methods=compared.methods[:1])
    write_methods(tmp_path / "m.json", strange)
    with pytest.raises(FileFormatError, match=r"sizes has rows of '.*', which is not among"):
        read_methods(tmp_path / "m.json")


def test_a_picture_has_a_line_for_each_method(compared: MethodsFile) -> None:
    scene = draw_methods(compared, title="Methods")
    lines = {mark.colour for mark in scene.links}
    assert {COLOURS[0], COLOURS[1], COLOURS[2]} <= lines
    assert {text.text for text in scene.legend.texts} >= {"exact", "clean-corrupted", RANDOM}
    for cell in scene.cells:
        assert 0 <= cell.x <= scene.width
        assert 0 <= cell.y <= scene.height
    assert any("exact, 10 edges" in cell.tooltip for cell in scene.cells)


def test_scores_that_are_given_are_judged_alike(models: dict[str, Path], tmp_path: Path) -> None:
    rows = pairs_file(tmp_path, 8)
    session = open_model(models[MODEL])
    pairs = open_split(session, str(rows), test=0)
    from edgewise.workflow import discover

    own = discover(session, pairs, method="clean-corrupted", metric="kl").scores.scores
    asked = [AskedMethod.parse("clean-corrupted"), GivenScores("mine", own)]
    found = compare_methods(session, pairs, asked, KL, Asking(sizes=(4,), drawn=5, top=3))
    a, b, _ = map(dict, found.methods)
    for key in ("CPR", "CMD", "Pearson", "Spearman", "top"):
        assert a[key] == (None if b[key] is None else pytest.approx(b[key]))
    assert not found.comparison["held_out"]
    part = np.where(own.top(3).kept, own.values, np.nan)
    with pytest.raises(EdgewiseError, match=r"the scores 'part' lack [\d,]+ of [\d,]+ edges"):
        compare_methods(session, pairs, [GivenScores("part", Scores(own.graph, part))])
    other = ComputationGraph(layers=3, heads=2)
    wrong = Scores(other, np.where(other.reads, 1.0, np.nan))
    with pytest.raises(GraphMismatch, match="the scores 'other' are not of the model's graph"):
        compare_methods(session, pairs, [GivenScores("other", wrong)])


def test_what_a_method_found_before_is_judged_as_if_it_were_run(
    models: dict[str, Path], tmp_path: Path
) -> None:
    rows = pairs_file(tmp_path, 8)
    session = open_model(models[MODEL])
    pairs = open_split(session, str(rows), examples=4, test=4)
    asked = [AskedMethod.parse(name) for name in ("eap-ig:steps=2", "acdc")]
    asking = Asking(sizes=(4,), drawn=5, top=3)
    once = compare_methods(session, pairs, asked, KL, asking)
    found = [run_method(session, pairs, one, KL) for one in asked]
    again = compare_methods(session, pairs, found, KL, asking)
    for a, b in zip(map(dict, once.methods), map(dict, again.methods), strict=True):
        for key in a.keys() - {"passes", "seconds", "MB"}:
            assert a[key] == b[key], key
    assert again.methods[0]["passes"] is not None
    assert found[1].circuit is not None
    with pytest.raises(EdgewiseError, match="the methods acdc, acdc cannot be compared"):
        compare_methods(session, pairs, [found[1], asked[1]], KL)


# -- whole nodes --------------------------------------------------------------------------------


def test_nodes_are_compared_by_the_exact_effects_of_all(
    edgewise: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    """Exact effects agree with themselves; areas are those of `evaluate`, of numbers of nodes."""
    rows = pairs_file(tmp_path, 12)
    given = ["--model", models[MODEL], "--task", rows, "--examples", 6, "--test", 6]
    given += ["--metric", "kl", "--level", "node"]
    own = ["--method", "exact", "--top", 3, "--scores", "-o", tmp_path / "mine.json"]
    edgewise("discover", *given, *own)
    asked = [
        "--compare",
        f"exact,eap-ig:steps=2,atp-star:metric=logit_diff,{tmp_path}/mine.json",
        *given,
    ]
    shown = edgewise("methods", *asked, "--sizes", "2,4", "-o", tmp_path / "m.json").stdout
    for words in ("Exact effects of all", "so many strongest nodes", "circuits of the strongest"):
        assert words in shown
    assert "alike" not in shown
    found = read_methods(tmp_path / "m.json")
    assert found.comparison["level"] == "node"
    exact, ig, star, mine, random = map(dict, found.methods)
    assert (exact["Pearson"], exact["top"], exact["sign"]) == (pytest.approx(1), 1, 1)
    for key in ("CPR", "CMD", "Spearman"):
        assert mine[key] == pytest.approx(exact[key])
        assert None not in (ig[key], star[key], random[key])
    senders = len(found.graph.senders)
    block = found.comparison["asked"]
    assert block is not None
    assert (block["certain"], block["drawn"]) == (senders, 0)
    assert max(row["edges"] for row in found.sizes) == senders
    assert (exact["rest low"], ig["Spearman high"]) == (None, None)  # all were asked
    sizes = [(row["method"], row["edges"]) for row in found.sizes]
    assert len(set(sizes)) == len(sizes)
    curve = json.loads(edgewise("evaluate", tmp_path / "mine.json", "--curve", "--json").stdout)
    assert exact["CPR"] == pytest.approx(curve["curve"]["cpr"])
    edgewise("draw", tmp_path / "m.json", "-o", tmp_path / "m.svg")
    assert "of the strongest nodes" in (tmp_path / "m.svg").read_text().replace("\n", " ")
    told = edgewise("methods", "--compare", "acdc", *given, status=1).stderr
    assert "'acdc' does not work at level node" in told
    told = edgewise(
        "methods", "--compare", "atp-star:metric=logit_diff", *given[:-2], status=1
    ).stderr
    assert "'atp-star' does not work at level edge; accepted: level node" in told
    wrong = ["--compare", f"{tmp_path}/mine.json", *given[:-2]]
    told = edgewise("methods", *wrong, status=1).stderr
    assert "the scores 'mine.json' are of nodes, and edges are compared" in " ".join(told.split())


# -- the command --------------------------------------------------------------------------------


def test_methods_are_listed(edgewise: Run) -> None:
    shown = edgewise("methods").stdout
    assert all(name in shown for name in registered())
    rows = json.loads(edgewise("methods", "--json").stdout)["methods"]
    assert [row["method"] for row in rows] == list(registered())


def test_the_command_compares_and_draws(
    edgewise: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    rows = pairs_file(tmp_path, 12)
    given = ["--model", models[MODEL], "--task", rows, "--examples", 6, "--test", 6]
    given += ["--metric", "kl"]
    own = ["--method", "eap-ig", "--top", 4, "--scores", "-o", tmp_path / "mine.json"]
    edgewise("discover", *given, *own)
    (tmp_path / "mine.scores.safetensors").rename(tmp_path / "given.scores.safetensors")
    alone = ["--compare", f"{tmp_path}/given.scores.safetensors", *given, "--exact", 0]
    rows_of_file = json.loads(edgewise("methods", *alone, "--json").stdout)["methods"]
    assert [row["method"] for row in rows_of_file] == ["given", RANDOM]
    (tmp_path / "given.scores.safetensors").rename(tmp_path / "mine.scores.safetensors")
    asked = ["--compare", f"eap-ig:steps=1,{tmp_path}/mine.json", *given]
    asked += ["--exact", 5, "--top", 3]
    shown = edgewise("methods", *asked, "--sizes", "2,4", "-o", tmp_path / "m.json").stdout
    for words in ("CPR", "CMD", "rest", "alike", "random", "mine.json", "written:"):
        assert words in shown
    found = read_methods(tmp_path / "m.json")
    assert [row["method"] for row in found.methods] == ["eap-ig:steps=1", "mine.json", RANDOM]
    edgewise("draw", tmp_path / "m.json", "-o", tmp_path / "m.svg")
    assert "mine.json, 4 edges" in (tmp_path / "m.svg").read_text()
    told = edgewise("draw", tmp_path / "m.json", "-o", tmp_path / "m.dot", status=2).stderr
    assert "a comparison of methods is no graph" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--compare", "eap"], "--compare needs --model and --task"),
        (["--compare", ","], "--compare"),
        ([], "--model is for --compare, which names methods to compare"),
        (["--compare", "eap-gi"], "unknown method 'eap-gi'"),
        (["--compare", "eap", "--sizes", "1,x"], "--sizes is '1,x'"),
    ],
)
def test_wrong_usage(
    edgewise: Run, models: dict[str, Path], flags: list[str], message: str
) -> None:
    more = [] if flags == ["--compare", "eap"] else ["--model", str(models[MODEL]), "--task", "ioi"]
    assert message in edgewise("methods", *flags, *more, status=2).stderr


def test_wrong_requests(edgewise: Run, models: dict[str, Path], tmp_path: Path) -> None:
    rows = pairs_file(tmp_path, 6)
    given = ["--model", models[MODEL], "--task", rows]
    told = edgewise("methods", "--compare", "eap,eap", *given, status=1).stderr
    assert "the methods eap, eap cannot be compared; accepted: one or more, each once" in told
    told = edgewise("methods", "--compare", "eap", "--sizes", "0", *given, status=1).stderr
    assert "a circuit of 0 edges is asked for; accepted: 1 to" in told
    told = edgewise("methods", "--compare", "eap", "--metric", "accuracy", *given, status=1).stderr
    assert "accuracy" in told
    assert not list(tmp_path.glob("*.json"))
