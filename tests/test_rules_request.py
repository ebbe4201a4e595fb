"""Rule one: what influences a number is a field of one value.

No dict of what was asked for is written by hand outside `edgewise/experiment`, no function takes so
many parameters that a value is missing, and `key()` counts every field of every part, or the field
is marked, with the reason why it cannot matter.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewise.discovery.registry import methods
from edgewise.experiment.key import counted, digest, key_of
from edgewise.experiment.parts import Part, Uncounted
from edgewise.experiment.spec import (
    ComparisonSpec,
    ComputeSpec,
    DiscoverySpec,
    DrawingSpec,
    EvaluationSpec,
    Experiment,
    GraphSpec,
    ModelSpec,
    Selection,
)
from edgewise.experiment.start import Start
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import EdgewiseError, UnknownName
from edgewise.graphs.files import write_circuit
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from edgewise.patching.ablations.registry import ablations
from edgewise.patching.engines import ENGINES, resolved
from edgewise.patching.tasks import TASKS
from edgewise.steps.discover import discover
from tests.edgewise.conftest import id_rows, tiny

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("edgewise", "graphs", "patching", "discovery", "visualize")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
ASKED = {"metric", "ablation", "method", "pairs", "weights_sha256"}
MOST = 7
pytestmark = pytest.mark.filterwarnings("ignore:the circuit's faithfulness is")


def keys(node: ast.AST) -> set[object]:
    """Return the keys of a dict as it is written: a literal, `dict(…)`, what both are merged of."""
    match node:
        case ast.Dict():
            own = {key.value for key in node.keys if isinstance(key, ast.Constant)}
            inside = [one for key, one in zip(node.keys, node.values, strict=True) if key is None]
            return own.union(*map(keys, inside))
        case ast.Call(func=ast.Name(id="dict")):
            pairs = [one for given in node.args for one in getattr(given, "elts", [])]
            firsts = [one.elts[0] for one in pairs if isinstance(one, ast.Tuple | ast.List)]
            own = {one.value for one in firsts if isinstance(one, ast.Constant)}
            return own.union({one.arg for one in node.keywords}, *map(keys, node.args))
        case ast.BinOp(op=ast.BitOr()):
            return keys(node.left) | keys(node.right)
    return set()


def hand_written(source: str) -> Iterator[int]:
    """Yield the lines of dicts with two of the names of what is asked for as keys."""
    tree = ast.parse(source)
    found = {node.lineno for node in ast.walk(tree) if len(keys(node) & ASKED) > 1}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module):
            filled: dict[str, set[object]] = {}
            for node in ast.walk(function):
                if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                    named = filled.setdefault(ast.unparse(node.value), set())
                    named.add(getattr(node.slice, "value", None))
                    if len(named & ASKED) > 1:
                        found.add(node.lineno)
    yield from sorted(found)


def wide(source: str) -> Iterator[str]:
    """Yield the functions with more than seven parameters, `self` and `cls` not counted."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            if len([one for one in found if one.arg not in ("self", "cls")]) > MOST:
                yield getattr(node, "name", "lambda")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_is_asked_for_is_written_in_one_place(path: Path) -> None:
    if not name_of(path).startswith("edgewise/experiment/"):
        assert list(hand_written(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_function_lacks_a_value(path: Path) -> None:
    if not name_of(path).startswith("graphs/lift/"):
        assert list(wide(path.read_text(encoding="utf-8"))) == []


def test_the_checkers_see_what_breaks_the_rule() -> None:
    assert list(hand_written('x = {"method": 1,\n     "metric": 2}')) == [1]
    assert list(hand_written('x = {"method": 1, **rest}\ny = dict(method=1, **rest)')) == []
    for source in (
        "dict(method=1, metric=2)",
        'dict([("method", 1), ("metric", 2)])',
        '{"method": 1} | {"metric": 2}',
        '{**{"method": 1}, "metric": 2}',
        'dict({"method": 1}, metric=2)',
        'def f(x): x["method"] = 1; x["metric"] = 2',
    ):
        assert list(hand_written(source)) == [1], source
    assert list(wide("def f(self, a, b, c, d, *, e, f, g): ...")) == []
    assert list(wide("def f(a, b, c, d, *, e, f, g, h): ...")) == ["f"]
    assert list(wide("x = lambda a, b, c, d, e, f, g, h: 0")) == ["lambda"]


# -- the key counts everything -------------------------------------------------------------------

COUNTS = st.integers(1, 10**6)
NAMES = st.text("abcdefgh", min_size=1, max_size=8)
SHARES = st.floats(0.01, 0.99)
NEEDED: dict[type[Part], dict[str, Any]] = {
    ModelSpec: {"name": "a", "source": "b"},
    TaskSpec: {"name": "induction"},
    DiscoverySpec: {"method": "eap-ig"},
}
"""What a part cannot be without."""


def start(value: int) -> Start:
    graph = ComputationGraph(layers=1, heads=1)
    scores = np.full(graph.reads.shape, value, dtype=np.float32)
    return Start(Scores(graph, np.where(graph.reads, scores, np.nan)), {"method": "eap"})


VALUES: dict[type[Part], dict[str, st.SearchStrategy[Any]]] = {
    ModelSpec: {"name": NAMES, "source": NAMES},
    TaskSpec: {
        "name": st.sampled_from(sorted(TASKS)),
        "file": NAMES,
        "examples": COUNTS,
        "test": st.none() | COUNTS,
        "seed": st.integers(0, 10**6),
        "bos": st.none() | st.booleans(),
        "options": st.fixed_dictionaries({"period": COUNTS, "length": COUNTS}),
        "answers": st.sampled_from([None, "first", "whole"]),
        "system": st.none() | NAMES,
        "continued": st.none() | NAMES,
        "spans": st.booleans(),
    },
    GraphSpec: {
        "grouped_kv": st.booleans(),
        "split_embedding": st.booleans(),
        "try_family": st.none() | st.sampled_from(["llama", "shape"]),
    },
    Selection: {
        "top": COUNTS,
        "above": st.floats(0, 100),
        "faithfulness": SHARES,
        "target": SHARES,
        "signed": st.booleans(),
        "connected": st.booleans(),
        "stable": SHARES,
        "greedy": st.booleans(),
    },
    DiscoverySpec: {
        "method": st.sampled_from(sorted(methods())),
        "metric": st.sampled_from(["logit_diff", "nll", "prob_diff", "logit(answer)"]),
        "ablation": st.sampled_from(sorted(ablations())),
        "options": st.fixed_dictionaries({"steps": st.integers(1, 99), "midpoint": st.booleans()}),
        "select": st.builds(Selection, top=COUNTS, signed=st.booleans()),
        "start": st.integers(-9, 9).map(start),
        "per_example": st.booleans(),
        "level": st.sampled_from(["edge", "node"]),
        "mlps": st.sets(st.integers(0, 9), min_size=1).map(lambda x: tuple(sorted(x))),
    },
    EvaluationSpec: {
        "metrics": st.sampled_from([("kl",), ("nll",), ("kl", "nll"), ("nll", "kl")]),
        "curve": st.booleans(),
        "ablation": st.none() | st.sampled_from(sorted(ablations())),
        "minimality": st.booleans(),
        "random": st.none() | COUNTS,
        "tests": st.booleans(),
        "worst": st.booleans(),
        "draws": COUNTS,
        "draw_seed": st.integers(0, 10**6),
        "control": st.booleans(),
        "rivals": st.none() | COUNTS,
        "penalty": st.floats(0, 9),
    },
    ComparisonSpec: {
        "paired": st.none() | st.booleans(),
        "delta": st.none() | st.floats(0, 9),
        "delta_share": st.none() | st.floats(0, 9),
        "controls": st.booleans(),
        "function": st.booleans(),
        "noise_floor": st.none() | st.integers(2, 99),
        "level": SHARES,
        "cross": st.booleans(),
        "roles": st.booleans(),
    },
    DrawingSpec: {
        "formats": st.sampled_from([(), ("svg",), ("dot",), ("svg", "dot")]),
        "top": st.integers(1, 1000),
        "layout": st.sampled_from(["auto", "dot", "built-in"]),
        "heat_map": st.booleans(),
        "overlap": st.booleans(),
    },
    ComputeSpec: {
        "device": st.sampled_from(["auto", "cpu"]),
        "dtype": st.sampled_from(["float32", "float64", "bfloat16", "float16"]),
        "batch_size": st.none() | COUNTS,
        "engine": st.sampled_from(ENGINES),
        "threads": st.none() | COUNTS,
        "allow_pickle": st.booleans(),
    },
}
"""What each field of each part can be."""

EVERY_FIELD = [(part, field) for part, fields in VALUES.items() for field in fields]


def holding(part: type[Part], field: str, value: object) -> Part:
    """Build a part with one field given, and what it cannot be without."""
    needed: dict[str, Any] = dict(NEEDED.get(part, {}))
    if part is Selection and field not in Selection.ways():
        needed["top"] = 3
    if (part, field) == (DiscoverySpec, "mlps"):
        needed["level"] = "neuron"
    if (part, field) == (DiscoverySpec, "start"):
        needed["method"] = "refine"
    if field == "file":
        needed.pop("name")
    if field in ("system", "continued"):
        needed = {"file": "chat.jsonl"}
    return part(**{**needed, field: value})


@pytest.mark.parametrize("part", VALUES, ids=lambda part: part.__name__)
def test_the_test_changes_every_field(part: type[Part]) -> None:
    assert list(VALUES[part]) == part.names()


@pytest.mark.parametrize(("part", "field"), EVERY_FIELD, ids=str)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_field_counts_or_says_why_not(part: type[Part], field: str, data: Any) -> None:
    one, other = (holding(part, field, data.draw(VALUES[part][field])) for _ in range(2))
    counts = field not in part.marked(Uncounted)
    equal = vars(one)[field] == vars(other)[field]
    if field == "start":
        equal = np.array_equal(
            one.start.scores.values,
            other.start.scores.values,
            equal_nan=True,  # type: ignore[attr-defined]
        )
    if field == "threads":  # the number that it stands for counts
        numbers = [vars(part)[field] or torch.get_num_threads() for part in (one, other)]
        counts, equal = True, numbers[0] == numbers[1]
    if field == "engine":  # so does the engine
        engines = [resolved(vars(part)[field], "cpu") for part in (one, other)]
        counts, equal = True, engines[0] == engines[1]
    if field != "file":  # which names the pairs too
        assert (key_of(one).sha256 != key_of(other).sha256) == (counts and not equal)
    assert one.but(**{field: vars(one)[field]}) == one


def test_what_counts_of_a_part_by_hand() -> None:
    """Parts within it and what it maps count by their own names, beside its other fields."""
    part = DiscoverySpec("eap-ig", metric="kl", options={"steps": 3}, select=Selection(top=9))
    found = counted(part)
    assert (found["discovery.method"], found["discovery.metric"]) == ("eap-ig", "kl")
    assert (found["discovery.steps"], found["discovery.top"]) == (3, 9)
    assert digest({"a": Path("x"), "b": "é"}) == digest({"b": "é", "a": "x"})


def whole(**changes: object) -> Experiment:
    """Build an experiment, with some parts or fields changed."""
    models, task = (ModelSpec("a", "b"),), TaskSpec("induction")
    one = Experiment("x", models, task, DiscoverySpec("eap-ig", metric="logit_diff"))
    return one.but(**changes)


def test_the_key_of_a_whole_experiment_counts_every_part() -> None:
    """Asked for no parts by name, it is of all, with what was typed for models and prompts."""
    before = whole().key()
    assert whole(name="y", description="z").key() == before
    for changes in (
        {"models": (ModelSpec("a", "c"),)},
        {"task": TaskSpec(file="p.jsonl")},
        {"task": TaskSpec("induction", seed=1)},
        {"discovery": DiscoverySpec("eap-ig", metric="logit_diff", options={"steps": 9})},
        {"evaluation": EvaluationSpec(("nll",))},
        {"comparison": ComparisonSpec(noise_floor=3)},
        {"drawing": DrawingSpec(top=3)},
        {"compute": ComputeSpec(dtype="float64")},
        {"compute": ComputeSpec(batch_size=3)},
        {"graph": GraphSpec(grouped_kv=True)},
    ):
        assert whole(**changes).key().sha256 != before.sha256, changes
    files = [TaskSpec(file="p.jsonl"), TaskSpec("p", file="q.jsonl")]
    assert len({whole(task=task).key().sha256 for task in files}) == 2


def test_facts_versions_and_where_it_is_computed_count(monkeypatch: pytest.MonkeyPatch) -> None:
    part = ComputeSpec()
    before = key_of(part, prompts="a")
    assert key_of(part, prompts="b") != before
    for name, value in (("torch.__version__", "0"), ("transformers.__version__", "0"),
                        ("edgewise.__version__", "0"), ("torch.get_num_threads", lambda: 99),
                        ("torch.backends.cpu.get_cpu_capability", lambda: "abacus"),
                        ("torch.get_float32_matmul_precision", lambda: "medium")):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(name, value)
            assert key_of(part, prompts="a") != before, name
    assert key_of(part, prompts="a") == before
    assert key_of(ComputeSpec("cpu")) != key_of(ComputeSpec("mps"))


# -- what does not count has no influence ----------------------------------------------------------


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("asked")
    tiny("gpt2").save_pretrained(folder / "model")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in id_rows()))
    return Experiment(
        "one",
        (ModelSpec("a", str(folder / "model")),),
        TaskSpec(file=str(folder / "pairs.jsonl")),
        DiscoverySpec("eap-ig", select=Selection(top=25)),
        compute=ComputeSpec("cpu", batch_size=3),
    )


def elsewhere(path: str) -> str:
    """Copy a file or folder to another name beside it."""
    target = Path(path).with_name(f"other-{Path(path).name}")
    if Path(path).is_dir():
        shutil.copytree(path, target, dirs_exist_ok=True)
    else:
        shutil.copy(path, target)
    return str(target)


OTHERWISE: dict[tuple[type[Part], str], Callable[[Experiment], Experiment]] = {
    (ModelSpec, "name"): lambda one: one.but(models=(one.base.but(name="b"),)),
    (ModelSpec, "source"): lambda one: one.on(elsewhere(one.base.source)).but(compute=one.compute),
    (TaskSpec, "file"): lambda one: one.but(task=one.task.but(file=elsewhere(one.task.reference))),
    (ComputeSpec, "device"): lambda one: one.but(compute=one.compute.but(device="auto")),
    (ComputeSpec, "engine"): lambda one: one.but(compute=one.compute.but(engine="torch")),
    (ComputeSpec, "threads"): lambda one: one.but(
        compute=one.compute.but(threads=1 + torch.get_num_threads())
    ),
    (ComputeSpec, "allow_pickle"): lambda one: one.but(compute=one.compute.but(allow_pickle=True)),
    (Experiment, "name"): lambda one: one.but(name="two"),
    (Experiment, "description"): lambda one: one.but(description="of two"),
    (Experiment, "circuit"): lambda one: one.but(circuit=discover(one).file),
}
"""The experiment with another value of each field that does not count."""


@pytest.mark.parametrize(
    ("part", "field"),
    [(part, field) for part in (*VALUES, Experiment) for field in part.marked(Uncounted)],
    ids=str,
)
def test_what_does_not_count_has_no_influence(
    part: type[Part], field: str, experiment: Experiment
) -> None:
    changed = OTHERWISE[part, field](experiment)
    assert changed != experiment
    threads = torch.get_num_threads()
    try:
        one, other = discover(experiment), discover(changed)
        assert torch.get_num_threads() == (changed.compute.threads or threads)
    finally:
        torch.set_num_threads(threads)
    assert one.file.circuit == other.file.circuit
    values = one.scores.scores.values, other.scores.scores.values
    if field == "threads":  # it moves the last digits, and its number counts
        assert np.allclose(*values, equal_nan=True)
        assert one.file.discovery["threads"] != other.file.discovery["threads"]
        assert experiment.key("compute").sha256 != changed.key("compute").sha256
        return
    assert np.array_equal(*values, equal_nan=True)
    assert one.evaluation == other.evaluation


def test_a_circuit_is_found_again_from_its_own_file(experiment: Experiment, tmp_path: Path) -> None:
    """A file's blocks are the request: they find the same circuit, also in a model elsewhere."""
    found = discover(experiment)
    write_circuit(tmp_path / "a.json", found.file)
    again = Experiment.from_circuit(tmp_path / "a.json")
    parts = ("graph", "discovery", "compute")
    assert again.key(*parts) == experiment.key(*parts)
    assert again.task == experiment.task.but(examples=len(id_rows()))
    assert again.key().values["pairs"] == found.file.task["sha256"]
    assert discover(again).file.circuit == found.file.circuit
    other = discover(again.on(elsewhere(experiment.base.source)))
    assert other.file.discovery["method"] == found.file.discovery["method"]
    assert other.file.circuit == found.file.circuit


# -- what is wrong is told in this project's words -------------------------------------------------

JUNK: list[Any] = [
    "",
    " ",
    "x",
    0,
    -1,
    2.5,
    float("nan"),
    True,
    [],
    ["x"],
    [1],
    {},
    {"x": 1},
    {1: 1},
    b"x",
]


@pytest.mark.parametrize(("part", "field"), EVERY_FIELD, ids=str)
def test_nonsense_is_refused_in_words(part: type[Part], field: str) -> None:
    for junk in JUNK:
        try:
            holding(part, field, junk)
        except EdgewiseError as error:
            message = str(error)
            assert "Input should" not in message and "pydantic" not in message, message
            assert message.endswith((".", "^")) and len(message) > 15, message


def test_an_argument_that_no_part_has_is_refused(experiment: Experiment) -> None:
    with pytest.raises(UnknownName, match=r"argument of discover 'metod'; did you mean 'method'\?"):
        discover(experiment, metod="eap")
    with pytest.raises(UnknownName, match="field of DiscoverySpec 'tpo'"):
        DiscoverySpec.of(method="eap", tpo=3)
