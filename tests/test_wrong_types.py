"""Every public call with a value of a wrong type raises an EdgewiseError that says what is taken.

The calls are found, not listed: what public modules export, what the documentation imports, what
builds public classes, and their public methods. Every argument of each is given values of many
types, the others fitting ones. The end is a result or an `EdgewiseError`; where the annotation
refuses the value, its message names the argument. So it does where an argument is missing, unknown,
given twice, or one too many.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgewise
from edgewise.discovery.registry import method
from edgewise.experiment.parts import Part
from edgewise.experiment.spec import FIELDS
from edgewise.experiment.start import read_start
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.calls.annotations import Check
from edgewise.graphs.calls.typed import _Arguments, typed
from edgewise.graphs.errors import EdgewiseError, WrongArgument
from edgewise.graphs.files import TimelineFile
from edgewise.graphs.files.exchange import NamedEdges, Submitted
from edgewise.graphs.files.tables.knockout import KnockoutFile
from edgewise.graphs.files.tables.known import KnownFile
from edgewise.graphs.files.tables.matrix import MatrixFile
from edgewise.graphs.files.tables.tokens import TokensFile
from edgewise.graphs.files.tables.trace import TraceFile
from edgewise.graphs.names import Kind
from edgewise.graphs.timeline import Timeline
from edgewise.patching.ablations.registry import ablation, get_ablation
from edgewise.patching.metrics.registry import get_metric, metric
from edgewise.patching.tasks import get_task
from edgewise.patching.tasks._registry import task
from edgewise.session import make_runner
from edgewise.steps.claims.asked import Asking
from edgewise.visualize.charts.timeline import MetricLine
from tests.edgewise.conftest import id_rows, tiny

MODULES = (
    "edgewise",
    "edgewise.workflow",
    "edgewise.graphs.files",
    "edgewise.graphs.files.exchange",
    "edgewise.visualize.charts.heat_map",
    "edgewise.visualize.charts.overlap",
    "edgewise.visualize.charts.timeline",
)
FUNCTIONS = (
    "edgewise.patching.tasks.get_task",
    "edgewise.patching.tasks._registry.task",
    "edgewise.patching.metrics.registry.get_metric",
    "edgewise.patching.metrics.registry.metric",
    "edgewise.patching.ablations.registry.get_ablation",
    "edgewise.patching.ablations.registry.ablation",
    "edgewise.discovery.registry.get_method",
    "edgewise.discovery.registry.method",
    "edgewise.discovery.registry.Method",
    "edgewise.discovery.registry.Option",
    "edgewise.patching.ablations.registry.Ablation",
    "edgewise.patching.tasks._registry.Task",
    "edgewise.graphs.timeline.Timeline",
    "edgewise.visualize.draw.write_scene",
    "edgewise.visualize.subject.Drawing",
    "edgewise.visualize.subject.Fade",
)
"""Public modules, and functions that stand in none of them and are documented."""

ROOT = Path(__file__).resolve().parents[1]


Kinds = inspect.Parameter


class Odd:
    """A class that nothing takes."""


def wrong_values(folder: Path) -> dict[str, object]:
    """Return values of many types; each is wrong for most arguments."""
    return {
        "none": None, "number": 3, "text": "x", "list": [], "mapping": {}, "object": Odd(),
        "directory": folder, "bool": True, "nan": float("nan"), "bytes": b"x", "set": {1},
        "tensor": torch.zeros(2), "array": np.zeros(2), "texts": ["x", 3], "class": Odd,
        "numbers": [1, 2], "keys": {3: 4}, "float": 0.5,
    }  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A public call: its name, how it is made, and what its arguments are."""

    name: str
    make: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]
    method: bool = False


def _signature(thing: Any) -> Mapping[str, inspect.Parameter] | None:
    try:
        return inspect.signature(thing).parameters
    except (TypeError, ValueError):
        return None


def public_calls() -> dict[str, Call]:
    """Find the calls of public modules, each once; of classes what builds them, and methods."""
    found: dict[str, Call] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        own = [key for key, one in vars(module).items() if getattr(one, "__module__", "") == name]
        listed = getattr(module, "__all__", own)
        things = [getattr(module, key) for key in listed if not key.startswith("_")]
        for thing in things:
            for one in _calls_of(thing):
                found.setdefault(one.name, one)
    for path in (*FUNCTIONS, *documented()):
        module_name, _, key = path.rpartition(".")
        thing = getattr(importlib.import_module(module_name), key, None)
        for one in _calls_of(thing):  # that what is documented is there, other tests tell
            found.setdefault(one.name, one)
    return found


def documented() -> Iterator[str]:
    """Yield what the documentation's code imports of this project, by its dotted name."""
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edgewise"):
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _calls_of(thing: Any) -> Iterator[Call]:
    if not str(getattr(thing, "__module__", "")).startswith("edgewise"):
        return
    if isinstance(thing, type):
        yield from _calls_of_class(thing)
    elif inspect.isroutine(thing) and (parameters := _signature(thing)) is not None:
        yield Call(thing.__name__, thing, parameters)


def _calls_of_class(kind: type) -> Iterator[Call]:
    if issubclass(kind, BaseException):
        return
    parameters = _signature(kind)
    if parameters and is_dataclass(kind):
        yield Call(kind.__name__, kind, parameters)
    own = [one for one in kind.__mro__[::-1] if one.__module__.startswith("edgewise")]
    members = {key: member for one in own for key, member in vars(one).items()}
    for key, member in members.items():
        if (
            (key.startswith("_") and key != "__call__")
            or isinstance(member, property)
            or not callable(getattr(kind, key))
        ):
            continue
        bound = not isinstance(member, staticmethod | classmethod)
        inside = _signature(getattr(kind, key))
        if inside is None or (is_dataclass(kind) and key in {one.name for one in fields(kind)}):
            continue
        names = dict(list(inside.items())[1:]) if bound else inside
        if names:
            yield Call(f"{kind.__name__}.{key}", getattr(kind, key), names, bound)


@pytest.fixture(scope="module")
def fitting(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Make a value for every class that calls take, by its name, and for some by argument."""
    folder = tmp_path_factory.mktemp("fitting")
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows()))
    session = edgewise.open_model(tiny("llama"))
    pairs, _ = edgewise.open_task(session, str(path))
    found = edgewise.discover(
        session, pairs, method="eap", metric="logit_diff", select=edgewise.Selection(top=12)
    )
    circuit, scores = found.file.circuit, found.scores.scores
    edgewise.write_circuit(folder / "circuit.json", found.file)
    edgewise.write_eap_ig(folder / "graph.json", circuit, scores, d_model=16)
    runner = make_runner(session, pairs)
    line = Timeline(("0", "10"), (circuit, circuit.complement), (scores.values, scores.values))
    measured = {"logit_diff": dict.fromkeys(("full", "circuit", "empty", "faithfulness"), 0.5)}
    checkpoint = {"reference": "a", "model": found.file.model, "measures": measured,
                  "certificate": found.file.certificate}  # fmt: skip
    file, read = found.file, folder / "circuit.json"
    timeline = TimelineFile(line, (checkpoint,) * 2, file.task, file.discovery)  # type: ignore[arg-type]
    return {
        "MetricLine": MetricLine("kl", (1.0, 2.0, 3.0)),
        "Timeline": line, "TimelineFile": timeline, "circuit.json": str(read),
        "Choice": edgewise.Choice(greedy=2), "Metric": get_metric("kl"), "Start": read_start(read),
        "Method": edgewise.get_method("eap"), "Ablation": get_ablation("zero"),
        "Task": get_task("induction"), "Foreign": edgewise.read_foreign(folder / "graph.json"),
        "Target": next(iter(runner.chunks())).target, "Found": found,
        "TaskSpec": TaskSpec("induction"),
        "KnownFile": KnownFile("any", (), ()),
        "Asking": Asking(),
        "KnockoutFile": KnockoutFile(found.file.model, found.file.task, {}, (), ()),  # type: ignore[typeddict-item]
        "TokensFile": TokensFile(found.file.model, found.file.task, {}, (), (), ()),  # type: ignore[typeddict-item]
        "TraceFile": TraceFile(found.file.model, found.file.task, {}, (), (), ()),  # type: ignore[typeddict-item]
        "MatrixFile": MatrixFile(session.graph, found.file.model, {}, (), (), (), ()),  # type: ignore[typeddict-item]
        "Evaluated": edgewise.evaluate(session, found.file, pairs),
        "Evaluation": found.evaluation, "models": str(folder),
        "name": "induction", "task": "induction",
        "NamedEdges": NamedEdges(folder / "edges.txt", ("embed->m0",), "0"),
        "Submitted": Submitted(found.file, scores),
        "Session": session, "PromptPairs": pairs, "CircuitFile": found.file, "Circuit": circuit,
        "Scores": scores, "ComputationGraph": session.graph, "ScoresFile": found.scores,
        "Runner": runner, "LiftedModel": session.lifted,
        "LoadedModel": session.loaded, "DiffFile": edgewise.compare(found.file, found.file),
        "CircuitDiff": edgewise.CircuitDiff(circuit, circuit), "Pair": pairs.pairs[0],
        "Kind": Kind.HEAD, "Node": edgewise.Node.parse("a0.h1"), "Port": edgewise.Port.parse("m1"),
        "Edge": edgewise.Edge.parse("embed->m0"), "Selection": edgewise.Selection(top=3),
        "Experiment": edgewise.Experiment.from_circuit(read),
        "path": str(folder / "new.json"), "str": "x", "int": 2, "float": 0.5, "bool": False,
        "ndarray": circuit.kept, "folder": folder, "Tensor": torch.zeros(4, 4),
    }  # fmt: skip


def fit(key: str, text: str, check: Check | None, fitting: Mapping[str, Any]) -> Any:
    """Return a value that an argument takes, by its name, annotation and check."""
    if key in ("path", "output"):
        return fitting["path"]
    if key in ("models", "name", "task") and check is not None and check.takes(fitting[key]):
        return fitting[key]
    first = text.replace(" ", "").split("|")[0].split("[")[0].rpartition(".")[2]
    candidates = [fitting[first]] if first in fitting else []
    candidates += [(), {}, "x", 2, *fitting.values()]
    return next((one for one in candidates if check is None or check.takes(one)), None)


def others(
    call: Call, name: str, checks: Mapping[str, Check], fitting: Mapping[str, Any]
) -> dict[str, Any]:
    """Return fitting values for the arguments that must be given beside one."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    found = {
        key: fit(key, str(one.annotation), checks.get(key), fitting)
        for key, one in call.parameters.items()
        if key != name and one.default is one.empty and one.kind not in variable
    }
    if call.name == "TaskSpec" and name != "name":  # it, or a file, must be given
        found["name"] = fitting["name"]
    if "tasks" in found:
        found["tasks"] = [fitting["TaskSpec"]]
    return found


CALLS = public_calls()


def test_the_public_calls_are_found() -> None:
    assert {"discover", "open_model", "Circuit", "Scores.top", "draw", "get_metric"} <= CALLS.keys()
    assert len(CALLS) > 80


def test_every_public_call_is_typed() -> None:
    """Whoever adds one decorates it with `typed`; parts of an experiment check themselves."""
    bare = []
    for name, call in CALLS.items():
        made = call.make.__init__ if isinstance(call.make, type) else call.make
        part = isinstance(call.make, type) and issubclass(call.make, Part)
        if not part and not made.__code__.co_filename.endswith("typed.py"):
            bare.append(name)
    assert bare == []


def called_with(name: str, fitting: dict[str, Any]) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the value that a method is called of, if it is one, and what its arguments take."""
    call = CALLS[name]
    subject = () if not call.method else (fitting.get(name.partition(".")[0]),)
    assert not (call.method and subject[0] is None), "no value to call it of"
    return subject, _Arguments.of(call.make, name).checks


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_wrong_type_is_refused_by_name(
    name: str, fitting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, problems = CALLS[name], []
    subject, checks = called_with(name, fitting)
    arguments = {
        key: one.kind for key, one in call.parameters.items() if one.kind is not one.VAR_POSITIONAL
    }
    for key, kind in arguments.items():
        names = sorted(FIELDS) if kind is inspect.Parameter.VAR_KEYWORD else [key]
        for given in names:
            beside = others(call, given, checks, fitting)
            fit_all = all(key not in checks or checks[key].takes(v) for key, v in beside.items())
            for what, value in wrong_values(tmp_path).items():
                if given == "progress" and what == "class":
                    continue  # it can be called, if in no useful way
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        call.make(*subject, **{**beside, given: value})
                except EdgewiseError as error:
                    refused = given in checks and not checks[given].takes(value)
                    if refused and fit_all and given not in str(error):
                        problems.append(f"{given}={what}: not named: {error}")
                except Exception as error:
                    problems.append(f"{given}={what}: {type(error).__name__}: {error}"[:200])
                else:
                    left_out = value is None and call.name in ("TaskSpec", "Experiment")
                    if given in checks and not checks[given].takes(value) and not left_out:
                        problems.append(f"{given}={what}: taken")
    assert not problems, "\n".join(problems)


REPEATED = {
    name: key
    for name, call in CALLS.items()
    for key, one in call.parameters.items()
    if one.kind is Kinds.VAR_POSITIONAL
}


@pytest.mark.parametrize("name", sorted(REPEATED))
def test_a_wrong_type_among_values_that_may_be_repeated_is_refused_by_name(
    name: str, fitting: dict[str, Any], tmp_path: Path
) -> None:
    call, key = CALLS[name], REPEATED[name]
    subject = () if not call.method else (fitting[name.partition(".")[0]],)
    checks = _Arguments.of(call.make, name).checks
    first = others(call, key, checks, fitting).values()
    for value in wrong_values(tmp_path).values():
        if not checks[key].takes(value):
            with pytest.raises(EdgewiseError, match=key):
                call.make(*subject, *first, value)


@pytest.mark.parametrize("name", sorted(CALLS))
def test_arguments_that_are_missing_or_too_many_are_refused_by_name(
    name: str, fitting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, problems = CALLS[name], []
    subject, checks = called_with(name, fitting)
    beside = others(call, "", checks, fitting)
    kinds = {key: one.kind for key, one in call.parameters.items()}
    if any(kind in (Kinds.POSITIONAL_ONLY, Kinds.VAR_POSITIONAL) for kind in kinds.values()):
        return
    places = [key for key, kind in kinds.items() if kind is Kinds.POSITIONAL_OR_KEYWORD]
    wrong: list[tuple[str, tuple[object, ...], dict[str, object]]] = [
        ("unheard_of", (), {**beside, "unheard_of": 3}),
        (
            "accepted: ",
            (Odd(),) * (len(places) + 1),
            {k: v for k, v in beside.items() if k not in places},
        ),
    ]
    wrong += [(key, (), {k: v for k, v in beside.items() if k != key}) for key in beside]
    if places:
        first = places[0]
        taken = fit(first, str(call.parameters[first].annotation), checks.get(first), fitting)
        wrong.append((first, (taken,), {**beside, first: taken}))
    for said, given, named in wrong:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call.make(*subject, *given, **named)
        except EdgewiseError as error:
            if said not in str(error):
                problems.append(f"{said}: not named: {error}")
            elif not isinstance(error, TypeError) and Kinds.VAR_KEYWORD not in kinds.values():
                problems.append(f"{said}: no TypeError: {type(error).__name__}")
        except Exception as error:
            problems.append(f"{said}: {type(error).__name__}: {error}"[:200])
        else:
            problems.append(f"{said}: taken")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda f: edgewise.read_circuit(3), "read_circuit: `path` is 3; accepted: a path."),
        (
            lambda f: edgewise.discover("gpt2", f["PromptPairs"], method="eap"),
            "`session` is 'gpt2'; accepted: a Session (from open_model) or an Experiment.",
        ),
        (
            lambda f: edgewise.discover(f["Session"], "ioi", method="eap"),
            "`pairs` is 'ioi'; accepted: a PromptPairs (from open_task or read_pairs) or",
        ),
        (lambda f: f["Scores"].top("5"), "top: `n` is '5'; accepted: a whole number."),
        (lambda f: f["Scores"].top(True), "top: `n` is True; accepted: a whole number."),
        (lambda f: f["Scores"].above(float("nan")), "`threshold` is nan; accepted: a number."),
        (
            lambda f: f["Circuit"].with_edges("m0->logits"),
            "with_edges: `edges` is 'm0->logits'; accepted: a list of an Edge or a text.",
        ),
        (lambda f: f["Circuit"] & 3, "`other` is 3; accepted: a Circuit."),
        (
            lambda f: edgewise.compare(f["CircuitFile"], torch.zeros(2, 3)),
            "`b` is a Tensor of shape [2, 3]; accepted: a CircuitFile (from read_circuit or",
        ),
        (
            lambda f: edgewise.draw(f["Circuit"], 5),
            "draw: `path` is 5; accepted: a path.",
        ),
        (
            lambda f: edgewise.CircuitFile(f["Circuit"], [], {}, {}, {}),
            "CircuitFile: `model` is []; accepted: a mapping of names to values.",
        ),
        (
            lambda f: edgewise.Experiment("x", 3, 4, 5),
            "models is 3; accepted: a table, [models]; task is 4",
        ),
        (lambda f: edgewise.open_model(3), "accepted: a causal language model of transformers"),
        (
            lambda f: edgewise.discover(f["Session"], f["PromptPairs"], methd="eap"),
            "unknown argument of discover 'methd'; did you mean 'method'? Accepted: session, ",
        ),
        (
            lambda f: edgewise.evaluate(f["Session"], f["Circuit"], pair=f["PromptPairs"]),
            "unknown argument of evaluate 'pair'; did you mean 'pairs'? Accepted: model, circuit,",
        ),
        (
            lambda f: f["Scores"].top(count=3),
            "unknown argument of top 'count'. Accepted: n, absolute",
        ),
        (
            lambda f: edgewise.write_circuit("x.json"),
            "write_circuit: `file` is missing; accepted: `file`, a CircuitFile (from read",
        ),
        (
            lambda f: edgewise.write_circuit(),
            "write_circuit: `path` and `file` are missing; accepted: `path`, a path; `file`, a",
        ),
        (
            lambda f: edgewise.read_circuit("x.json", None, 3),
            "read_circuit: 3 values are given by their places, the last 3; accepted: 2 (path,",
        ),
        (
            lambda f: edgewise.open_task(f["Session"], "ioi", task="ioi"),
            "open_task: `task` is given twice, by its place ('ioi') and by its name ('ioi');",
        ),
        (
            lambda f: edgewise.draw(f["CircuitFile"], "x.svg"),
            "`subject` is a CircuitFile; accepted: a Circuit or a CircuitDiff. Its `circuit`",
        ),
        (
            lambda f: edgewise.compare(f["Foreign"], f["CircuitFile"]),
            "`import_circuit` makes a circuit file of it, and `on` puts it on a graph.",
        ),
        (
            lambda f: edgewise.write_circuit("x.json", f["Found"]),
            "`file` is a Found; accepted: a CircuitFile (from read_circuit or discover). Its",
        ),
        (
            lambda f: edgewise.Selection(*range(20)),
            "Selection: 20 values are given by their places",
        ),
        (lambda f: edgewise.Selection(3, top=3), "Selection: `top` is given twice"),
        (
            lambda f: metric("mine", larger_is_better=True, smooth=False),
            "unknown argument of metric 'smooth'. Accepted: name, larger_is_better,",
        ),
        (lambda f: metric("mine"), "metric: `larger_is_better` is missing; accepted:"),
        (
            lambda f: metric("mine", larger_is_better=1),
            "`larger_is_better` is 1; accepted: True or",
        ),
        (
            lambda f: metric("kl", larger_is_better=True)(len),
            "a metric named 'kl' is registered al",
        ),
        (
            lambda f: metric("mine", larger_is_better=True)(3),
            "`function` is 3; accepted: a function",
        ),
        (lambda f: task("mine", summary=3), "task: `summary` is 3; accepted: a text."),
        (lambda f: task("mine", summary="x")("y"), "`function` is 'y'; accepted: a function."),
        (
            lambda f: method("mine", summary="x"),
            "method: `selects` is missing; accepted: `selects`,",
        ),
        (
            lambda f: ablation("mine", summary="x", pairs=True),
            "unknown argument of ablation 'pairs'",
        ),
        (lambda f: f["Runner"].mask_losses(f["ndarray"]), "`masks` have shape [27, 11] and"),
        (
            lambda f: f["PromptPairs"].batch([99]),
            "batch: `indices` are [99]; accepted: one or more",
        ),
        (
            lambda f: f["PromptPairs"].batch(padding="up"),
            "unknown padding 'up'. Accepted: right, left",
        ),
        (
            lambda f: f["PromptPairs"].batch(device="moon"),
            "`device` is 'moon', which cannot be used",
        ),
        (
            lambda f: f["LiftedModel"].embed_tokens(torch.tensor([99])),
            "accepted: whole numbers from 0",
        ),
        (lambda f: f["LiftedModel"].logits(torch.zeros(2, 3)), "accepted: the stream, [N, 16]"),
        (
            lambda f: f["ComputationGraph"].mixer("0"),
            "mixer: `layer` is '0'; accepted: a whole number",
        ),
        (
            lambda f: f["ComputationGraph"].live(np.zeros((2, 2))),
            "`kept` has shape (2, 2); accepted:",
        ),
        (lambda f: edgewise.Node(), "Node: `kind` is missing; accepted: `kind`, a Kind."),
        (lambda f: edgewise.Node(Kind.HEAD, 1, 2, 3), "Node: 4 values are given by their places"),
        (
            lambda f: edgewise.timeline(f["Experiment"], method="acdc"),
            "`method` cannot be given beside the experiment",
        ),
    ],
)
def test_what_is_said_names_found_and_accepted(
    call: Callable[[dict[str, Any]], object], said: str, fitting: dict[str, Any]
) -> None:
    with pytest.raises(EdgewiseError) as caught:
        call(fitting)
    assert said in str(caught.value)


def test_an_error_from_inside_a_call_stays_as_it_is() -> None:
    @typed
    def broken(number: int) -> int:
        return len(number)  # type: ignore[arg-type]

    @typed
    def calls(number: int) -> int:
        return broken(number, 3)  # type: ignore[call-arg]

    with pytest.raises(TypeError, match="has no len") as caught:
        broken(3)
    assert not isinstance(caught.value, EdgewiseError)
    with pytest.raises(WrongArgument, match="broken: 2 values are given by their places"):
        calls(3)
    with pytest.raises(WrongArgument, match="calls: `number` is missing"):
        calls()  # type: ignore[call-arg]


def test_arrays_may_be_lists(fitting: dict[str, Any]) -> None:
    circuit, scores = fitting["Circuit"], fitting["Scores"]
    graph = circuit.graph
    for made in (circuit.kept, circuit.kept.tolist(), torch.tensor(circuit.kept).numpy()):
        assert edgewise.Circuit(graph, made) == circuit
        assert graph.count_by_kind(made) == graph.count_by_kind(circuit.kept)
    again = edgewise.Scores(graph, scores.values.tolist())
    np.testing.assert_array_equal(again.values, scores.values)
    with pytest.raises(EdgewiseError, match="accepted: an array of numbers"):
        edgewise.Scores(graph, [["a"], [1, 2]])


def test_checking_is_cheap() -> None:
    """A check costs microseconds, less where a class decides; of failed calls alone nothing."""
    import timeit

    def plain(path: str | Path, number: int = 3, *, names: tuple[str, ...] = ()) -> int:
        return number

    once = timeit.timeit(lambda: typed(plain), number=1)
    checking = typed(plain)
    checking("x", 2)
    seconds = min(timeit.repeat(lambda: checking("x", 2, names=("a", "b")), number=200, repeat=5))
    assert once < 0.01
    assert seconds / 200 < 1e-4
    seconds = min(timeit.repeat(lambda: checking("x", 2), number=200, repeat=20))
    assert seconds / 200 < 2e-5
    for kinds in ("a", Path("a")):  # a union's classes are learnt one by one
        assert checking(kinds, 3) == 3
    with pytest.raises(EdgewiseError, match="`number` is True"):
        checking("x", True)


def test_of_fields_beside_a_missing_argument_the_argument_is_named(tmp_path: Path) -> None:
    """`evaluate` sorts its fields itself, so that a field is not what is unknown."""
    with pytest.raises(WrongArgument, match="evaluate: `circuit` is missing"):
        edgewise.evaluate(object(), tests=True)
    with pytest.raises(WrongArgument, match="`circuit` is missing"):
        edgewise.evaluate(1, draws=9)
