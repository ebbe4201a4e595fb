"""Timelines: identities of births, deaths and spans, overlaps by hand, and the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff, compare_scores
from edgewise.graphs.errors import EdgewiseError, FileFormatError, GraphMismatch
from edgewise.graphs.files import TimelineFile, model_block, read_timeline, write_timeline
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Edge, Kind
from edgewise.graphs.overlap import weighted_overlap
from edgewise.graphs.timeline import Life, Timeline, spans_of

TINY = ComputationGraph(layers=1, heads=1)
EMPTY = Circuit.empty(TINY)
A, B, C = "embed->a0.h0<v>", "a0.h0->logits", "embed->m0"


def line(*circuits: Circuit, scores: tuple[np.ndarray, ...] = ()) -> Timeline:
    return Timeline(tuple(map(str, range(len(circuits)))), circuits, scores)


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    """Draw up to six circuits and scores on a small graph."""
    count = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 2**32 - 1))
    share = draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    random = np.random.default_rng(seed)
    circuits = [Circuit(TINY, TINY.reads & (random.random(TINY.reads.shape) < share))]
    for _ in range(count - 1):  # flip some edges, so that spans are of many lengths
        flips = TINY.reads & (random.random(TINY.reads.shape) < 0.3)
        circuits.append(Circuit(TINY, circuits[-1].kept ^ flips))
    scores = tuple(random.normal(size=TINY.reads.shape) for _ in circuits)
    return line(*circuits, scores=scores)


# -- identities ---------------------------------------------------------------------------------


@given(timelines())
def test_births_and_deaths_lead_from_each_checkpoint_to_the_next(found: Timeline) -> None:
    alive = found.circuits[0]
    for i, circuit in enumerate(found.circuits):
        born, died = found.born(i), found.died(i)
        assert not len(born & died)
        assert alive | born == circuit | died
        assert (alive | born) - died == circuit
        if i:
            change = found.to_last(i)
            assert (change.edges.only_b, change.edges.only_a) == (len(born), len(died))
            summary = CircuitDiff(found.circuits[i - 1], circuit).summary()
            assert change.edges == summary.edges
            assert change.nodes == summary.nodes
        alive = circuit


@given(timelines())
def test_lives_say_exactly_what_each_checkpoint_has(found: Timeline) -> None:
    assert {str(life.thing) for life in found.edges} == {str(e) for e in found.union.edges}
    for i, circuit in enumerate(found.circuits):
        assert [x.thing for x in found.edges if i in x] == list(circuit.edges)
        nodes = [node for node in circuit.nodes if node.kind is not Kind.LOGITS]
        assert {x.thing for x in found.nodes if i in x} == set(nodes)
    for life in (*found.edges, *found.nodes):
        assert all(b[0] > a[1] + 1 for a, b in zip(life.spans, life.spans[1:], strict=False))
        assert life.length == sum(i in life for i in range(len(found)))
        assert (life.born, life.last) == (life.spans[0][0], life.spans[-1][1])
    whole = [str(life.thing) for life in found.edges if life.length == len(found)]
    assert whole == [str(edge) for edge in found.core.edges]


@given(st.lists(st.booleans(), max_size=12))
def test_spans_are_the_runs_of_true(alive: list[bool]) -> None:
    again = [False] * len(alive)
    for first, last in spans_of(alive):
        again[first : last + 1] = [True] * (last + 1 - first)
    assert again == alive


@given(timelines())
def test_overlaps_with_itself_are_whole(found: Timeline) -> None:
    for i, circuit in enumerate(found.circuits):
        change = found.change(i, i)
        assert change.edges.jaccard == change.nodes.jaccard == 1.0
        scored = not np.isnan(found.scores[i][circuit.kept]).any()
        assert change.weighted == (1.0 if scored else None)


WEIGHTS = st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), max_size=8)


@given(WEIGHTS)
def test_weighted_overlap_is_symmetric_and_between_0_and_1(
    pairs: list[tuple[float, float]],
) -> None:
    a, b = np.array(pairs).reshape(-1, 2).T
    found = weighted_overlap(a, b)
    assert found == weighted_overlap(b, a)
    assert found is None or 0 <= found <= 1


@given(timelines())
def test_a_timeline_and_a_diff_of_the_same_circuits_agree(found: Timeline) -> None:
    for i in range(1, len(found)):
        change, diff = found.to_last(i), CircuitDiff(*found.circuits[i - 1 : i + 1])
        kept = [
            np.where(circuit.kept, scores, np.nan)
            for circuit, scores in zip((diff.a, diff.b), found.scores[i - 1 : i + 1], strict=True)
        ]
        assert change.weighted == compare_scores(diff, (kept[0], kept[1])).weighted_overlap
        assert change.edges == diff.summary().edges
        ones = Timeline(("a", "b"), (diff.a, diff.b), (np.ones(TINY.reads.shape),) * 2).change(0, 1)
        if len(diff.a) == len(diff.b):  # equal weights everywhere
            assert ones.weighted == pytest.approx(change.edges.jaccard)


# -- by hand ------------------------------------------------------------------------------------


def hand_made() -> Timeline:
    """Make A alive at 0, 1, 3, B from 1 on, C at 2 alone, with scores."""
    circuits = [EMPTY.with_edges(edges) for edges in ([A], [A, B], [B, C], [A, B])]
    scores = np.full((4, *TINY.reads.shape), np.nan)
    table = {A: (1.0, 2.0, 0.5, 4.0), B: (0.1, 3.0, -3.0, 3.0), C: (0.0, 0.0, 6.0, 0.0)}
    for name, values in table.items():
        row, column = TINY.locate(Edge.parse(name))
        scores[:, row, column] = values
    return line(*circuits, scores=tuple(scores))


def test_by_hand() -> None:
    found = hand_made()
    lives = {str(life.thing): life for life in found.edges}
    assert lives[A].spans == ((0, 1), (3, 3))
    assert (lives[A].born, lives[A].length, lives[A].returns) == (0, 3, 1)
    assert lives[B].spans == ((1, 3),) and lives[B].returns == 0
    assert lives[C].spans == ((2, 2),)
    # weights of A, B, C: (1, 0, 0), (2/5, 3/5, 0), (0, 1/3, 2/3), (4/7, 3/7, 0)
    assert found.to_last(1).weighted == pytest.approx((2 / 5) / (1 + 3 / 5))
    assert found.to_last(2).weighted == pytest.approx((1 / 3) / (2 / 5 + 3 / 5 + 2 / 3))
    assert found.to_last(3).weighted == pytest.approx((1 / 3) / (4 / 7 + 3 / 7 + 2 / 3))
    assert found.change(1, 3).weighted == pytest.approx((2 / 5 + 3 / 7) / (4 / 7 + 3 / 5))
    assert [str(life.thing) for life in found.longest(2)] == [A, B]  # of equals the stronger
    assert [str(life.thing) for life in found.newest(9)] == [C, B]  # A was there from the start
    assert {str(x.thing): x.spans for x in found.nodes} == {
        "embed": ((0, 3),),
        "a0.h0": ((0, 3),),
        "m0": ((2, 2),),
    }


def test_the_strongest_and_the_newest_by_hand() -> None:
    found = hand_made()
    assert [found.peak(name) for name in (A, B, C)] == [4.0, 3.0, 6.0]
    assert [str(life.thing) for life in found.newest(1)] == [C]
    assert [str(life.thing) for life in found.longest(1)] == [A]
    # where no circuit has an edge, its score does not count: A is not in the third, m0 in none
    silent = [scores.copy() for scores in found.scores]
    silent[2][TINY.locate(A)] = -9.0
    silent[0][TINY.locate("m0->logits")] = 9.0
    again = line(*found.circuits, scores=tuple(silent))
    assert (again.peak(A), again.peak("m0->logits")) == (4.0, 0.0)
    assert line(*found.circuits).peak(A) == 0.0  # no scores at all
    # A comes before B in the graph, but of equals the larger |score| comes first
    scores = np.zeros((3, *TINY.reads.shape))
    for name, score in ((A, 1.0), (B, -2.0)):
        row, column = TINY.locate(name)
        scores[:, row, column] = score
    both = line(EMPTY, *[EMPTY.with_edges([A, B])] * 2, scores=tuple(scores))
    assert (both.peak(A), both.peak(B)) == (1.0, 2.0)
    for some in (both.newest(9), both.longest(9)):
        assert [str(life.thing) for life in some] == [B, A]
    # and before that the later born, or the longer lived
    late = line(*[EMPTY.with_edges(edges) for edges in ([], [A, C], [A, B])], scores=tuple(scores))
    assert [str(life.thing) for life in late.newest(9)] == [B, A, C]
    assert [str(life.thing) for life in late.longest(9)] == [A, B, C]


def test_births_and_deaths_by_hand() -> None:
    """A dies at 2 and is born again at 3; the first checkpoint has no births and no deaths."""
    found = hand_made()
    born = [[str(edge) for edge in found.born(i).edges] for i in range(4)]
    died = [[str(edge) for edge in found.died(i).edges] for i in range(4)]
    assert born == [[], [B], [C], [A]]
    assert died == [[], [], [A], [C]]


def test_a_change_by_hand() -> None:
    """From {A, B} to {B, C}, 8 edges possible: J = 1/3; nodes embed, a0.h0, and m0 of 3 possible.

    Chance lets two of 8 share 0, 1, 2 with P = 15/28, 12/28, 1/28, so E[J] = 12/28 · 1/3 + 1/28
    = 5/28, and the corrected index is (1/3 − 5/28) / (23/28) = 13/69.
    """
    told = hand_made().to_last(2).to_dict()
    assert told["edges"] == {
        "shared": 1, "died": 1, "born": 1, "jaccard": pytest.approx(1 / 3),
        "corrected_jaccard": pytest.approx(13 / 69),
    }  # fmt: skip
    assert told["nodes"] == {
        "shared": 2, "died": 0, "born": 1, "jaccard": pytest.approx(2 / 3),
        "corrected_jaccard": pytest.approx(0),  # all three nodes: chance shares the other's two
    }  # fmt: skip
    assert told["weighted_overlap"] == pytest.approx((1 / 3) / (2 / 5 + 3 / 5 + 2 / 3))
    assert hand_made().to_first(2).edges == hand_made().change(0, 2).edges
    assert (hand_made().to_first(2).edges.shared, hand_made().to_first(2).edges.a) == (0, 1)
    assert hand_made().to_last(0).edges.jaccard == 1


def test_scores_of_another_number_or_shape_are_refused() -> None:
    fitting = np.zeros(TINY.reads.shape)
    for scores in ((fitting,), (fitting,) * 3, (fitting, fitting[:-1])):
        with pytest.raises(GraphMismatch, match="scores do not fit 2 circuits"):
            line(EMPTY, EMPTY, scores=scores)


def test_checkpoints_on_unequal_graphs_are_refused_by_name() -> None:
    other = Circuit.empty(ComputationGraph(layers=2, heads=1))
    with pytest.raises(GraphMismatch, match=r"checkpoint '1' .* with '0'.*layers"):
        line(EMPTY, other)


@pytest.mark.parametrize(
    ("labels", "words"),
    [((), "at least one"), (("a",), "1 labels.*2 checkpoints"), (("a", "a"), "'a' is given twice")],
)
def test_labels_that_do_not_fit_are_refused(labels: tuple[str, ...], words: str) -> None:
    circuits = (EMPTY,) * (2 if labels else 0)
    with pytest.raises(EdgewiseError, match=words):
        Timeline(labels, circuits)


# -- the file -----------------------------------------------------------------------------------


def wrapped(found: Timeline) -> TimelineFile:
    model = model_block(
        found.graph, name="m", revision=None, weights_sha256=None, family="gpt2", d_model=4
    )
    measures = {
        name: {"full": 1.0, "circuit": 0.5, "empty": 0.0, "faithfulness": 0.5}
        for name in ("logit_diff", "kl")
    }
    head = {"model": model, "certificate": dict.fromkeys(("kept_all", "kept_none", "stream"), 0.0)}
    return TimelineFile(
        timeline=found,
        checkpoints=tuple(
            {"reference": label, **head, "measures": measures} for label in found.labels
        ),
        task={"name": "t", "sha256": "0", "examples": 2, "seed": 0},
        discovery={"method": "eap", "metric": "kl", "ablation": "zero", "top": 2},
    )


@given(timelines())
def test_reading_gives_what_was_written(tmp_path_factory: Any, found: Timeline) -> None:
    path = tmp_path_factory.mktemp("t") / "t.json"
    write_timeline(path, wrapped(found))
    again = read_timeline(path)
    assert again.timeline.labels == found.labels
    assert again.timeline.circuits == found.circuits
    union = found.union.kept
    for ours, theirs in zip(found.scores, again.timeline.scores, strict=True):
        assert (ours[union] == theirs[union]).all()
    text = path.read_bytes()
    write_timeline(path, again)
    assert path.read_bytes() == text


def test_a_file_says_what_a_reader_wants(tmp_path: Path) -> None:
    write_timeline(tmp_path / "t.json", wrapped(hand_made()))
    document = json.loads((tmp_path / "t.json").read_text())
    assert [one["label"] for one in document["checkpoints"]] == ["0", "1", "2", "3"]
    assert document["checkpoints"][0]["to_last"] is None
    third = document["checkpoints"][2]
    assert third["to_last"]["edges"]["born"] == third["to_last"]["edges"]["died"] == 1
    assert third["to_last"]["edges"]["jaccard"] == pytest.approx(1 / 3)
    assert list(third["measures"]) == ["kl", "logit_diff"]  # the discovery's first
    rows = {f"{row[0]}->{row[1]}": row[2:] for row in document["edges"]}
    assert rows[A] == [[[0, 1], [3, 3]], [1.0, 2.0, 0.5, 4.0]]


def drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.pop(key)


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a missing block": (drop("task"), "missing: task"),
    "no checkpoints": (lambda d: d.update(checkpoints=[]), "missing: checkpoints"),
    "a missing measure": (
        lambda d: d["checkpoints"][1]["measures"]["kl"].pop("full"),
        r"checkpoints\[1\].measures.kl.full",
    ),
    "edges that are no list": (lambda d: d.update(edges={}), "edges"),
    "too few scores": (lambda d: d["edges"][0][3].pop(), "3 scores for 4 checkpoints"),
    "a span beyond the end": (
        lambda d: d["edges"][0].__setitem__(2, [[0, 4]]),
        "do not stand in order",
    ),
    "spans that touch": (
        lambda d: d["edges"][0].__setitem__(2, [[0, 1], [2, 3]]),
        "do not stand in order",
    ),
    "no span": (lambda d: d["edges"][0].__setitem__(2, []), "no checkpoint has it"),
    "an unknown edge": (lambda d: d["edges"][0].__setitem__(0, "a7.h0"), "no sender a7.h0"),
    "a label twice": (lambda d: d["checkpoints"][1].update(label="0"), "'0' is given twice"),
    "a newer version": (lambda d: d.update(version=2), "newer edgewise"),
    "another format": (lambda d: d.update(format="edgewise/diff"), "not a timeline file"),
}


@pytest.mark.parametrize("case", DAMAGE, ids=str)
def test_a_damaged_file_is_refused_with_the_reason(case: str, tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_timeline(path, wrapped(hand_made()))
    document = json.loads(path.read_text())
    change, words = DAMAGE[case]
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match=words):
        read_timeline(path)


def test_life_answers_for_checkpoints_alone() -> None:
    life = Life("m0", ((1, 2),))
    assert 2 in life
    assert 3 not in life
    assert "2" not in life
