"""Every public call with a value of a wrong type raises an EdgewiseError that says what is taken.

The calls are found, not listed: what public modules export, what builds public classes, and their
public methods. Every argument of each is given values of many types, the others fitting ones. The
end is a result or an `EdgewiseError`; where the annotation refuses the value, its message names the
argument.
"""

from __future__ import annotations

import importlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgewise
from edgewise.experiment.spec import FIELDS
from edgewise.graphs.calls.typed import Check, _Arguments
from edgewise.graphs.errors import EdgewiseError
from edgewise.graphs.names import Kind
from tests.edgewise.conftest import id_rows, tiny

MODULES = (
    "edgewise",
    "edgewise.workflow",
    "edgewise.graphs.files",
    "edgewise.graphs.files.exchange",
)
FUNCTIONS = (
    "edgewise.patching.tasks.get_task",
    "edgewise.patching.metrics.registry.get_metric",
    "edgewise.patching.ablations.registry.get_ablation",
    "edgewise.discovery.registry.get_method",
    "edgewise.visualize.draw.write_scene",
)
"""Public modules, and functions that stand in none of them and are documented."""

RESULTS = {
    "Evaluated", "Found", "Imported", "LoadedModel", "LiftedModel", "Runner", "Session", "Start",
    "Foreign", "DiffFile", "RolesFile", "TimelineFile", "TransplantFile", "ScoresFile",
}  # fmt: skip
"""Classes whose values are made by functions, and are not built by users."""


INNER = {
    "ComputationGraph.live",
    "ComputationGraph.edge_at", "PromptPairs.batch", "Runner.mask_losses", "Runner.chunk_logits",
    *(f"LiftedModel.{name}" for name in ("embed", "embed_tokens", "logits", "scale_logits")),
}  # fmt: skip
"""What searches and runs call in their loops, beside what a graph tells of a layer."""


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
        things = [getattr(module, key) for key in module.__all__ if not key.startswith("_")]
        for thing in things:
            if not str(getattr(thing, "__module__", "")).startswith("edgewise"):
                continue
            if isinstance(thing, type):
                for one in _calls_of_class(thing):
                    found.setdefault(one.name, one)
            elif inspect.isroutine(thing) and (parameters := _signature(thing)) is not None:
                found.setdefault(thing.__name__, Call(thing.__name__, thing, parameters))
    for path in FUNCTIONS:
        module_name, _, key = path.rpartition(".")
        thing = getattr(importlib.import_module(module_name), key)
        found[key] = Call(key, thing, _signature(thing) or {})
    of_layers = {key for key, call in found.items() if call.method and "layer" in call.parameters}
    return {key: found[key] for key in found if key not in {*INNER, *of_layers}}


def _calls_of_class(kind: type) -> Iterator[Call]:
    if issubclass(kind, BaseException):
        return
    parameters = _signature(kind)
    if parameters and kind.__name__ not in RESULTS and (is_dataclass(kind)):
        yield Call(kind.__name__, kind, parameters)
    for key, member in vars(kind).items():
        if key.startswith("_") or isinstance(member, property) or not callable(getattr(kind, key)):
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
    from edgewise import workflow

    return {
        "Session": session, "PromptPairs": pairs, "CircuitFile": found.file, "Circuit": circuit,
        "Scores": scores, "ComputationGraph": session.graph, "ScoresFile": found.scores,
        "Runner": workflow.make_runner(session, pairs), "LiftedModel": session.lifted,
        "LoadedModel": session.loaded, "DiffFile": edgewise.compare(found.file, found.file),
        "CircuitDiff": edgewise.CircuitDiff(circuit, circuit), "Pair": pairs.pairs[0],
        "Kind": Kind.HEAD, "Node": edgewise.Node.parse("a0.h1"), "Port": edgewise.Port.parse("m1"),
        "Edge": edgewise.Edge.parse("embed->m0"), "Selection": edgewise.Selection(top=3),
        "Experiment": edgewise.Experiment.from_circuit(folder / "circuit.json"),
        "path": str(folder / "new.json"), "str": "x", "int": 2, "float": 0.5, "bool": False,
        "ndarray": circuit.kept, "folder": folder, "Tensor": torch.zeros(4, 4),
    }  # fmt: skip


def fit(key: str, text: str, check: Check | None, fitting: Mapping[str, Any]) -> Any:
    """Return a value that an argument takes, by its name, annotation and check."""
    if key in ("path", "output"):
        return fitting["path"]
    first = text.replace(" ", "").split("|")[0].split("[")[0].rpartition(".")[2]
    candidates = [fitting[first]] if first in fitting else []
    candidates += [(), {}, "x", 2, *fitting.values()]
    return next((one for one in candidates if check is None or check.takes(one)), None)


def others(
    call: Call, name: str, checks: Mapping[str, Check], fitting: Mapping[str, Any]
) -> dict[str, Any]:
    """Return fitting values for the arguments that must be given beside one."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {
        key: fit(key, str(one.annotation), checks.get(key), fitting)
        for key, one in call.parameters.items()
        if key != name and one.default is one.empty and one.kind not in variable
    }


CALLS = public_calls()


def test_the_public_calls_are_found() -> None:
    assert {"discover", "open_model", "Circuit", "Scores.top", "draw", "get_metric"} <= CALLS.keys()
    assert len(CALLS) > 80


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_wrong_type_is_refused_by_name(
    name: str, fitting: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call, problems = CALLS[name], []
    subject = () if not call.method else (fitting.get(name.partition(".")[0]),)
    if call.method and subject[0] is None:
        return
    checks = _Arguments.of(call.make, name).checks
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
                    if given in checks and not checks[given].takes(value):
                        problems.append(f"{given}={what}: taken")
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
            "`pairs` is 'ioi'; accepted: a PromptPairs (from open_task or read_pairs) or None.",
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
    ],
)
def test_what_is_said_names_found_and_accepted(
    call: Callable[[dict[str, Any]], object], said: str, fitting: dict[str, Any]
) -> None:
    with pytest.raises(EdgewiseError) as caught:
        call(fitting)
    assert said in str(caught.value)


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
    """A check costs microseconds; what is called in loops is not decorated."""
    import timeit

    from edgewise.graphs.calls.typed import typed

    def plain(path: str | Path, number: int = 3, *, names: tuple[str, ...] = ()) -> int:
        return number

    once = timeit.timeit(lambda: typed(plain), number=1)
    checking = typed(plain)
    checking("x", 2)
    seconds = min(timeit.repeat(lambda: checking("x", 2, names=("a", "b")), number=200, repeat=5))
    assert once < 0.01
    assert seconds / 200 < 1e-4
