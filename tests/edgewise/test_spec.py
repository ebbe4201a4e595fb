"""Specs: what is read is what was declared, and every mistake is named, all at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewise.discovery.registry import methods
from edgewise.experiment.document import parse_spec, read_spec
from edgewise.experiment.spec import DiscoverySpec, Experiment, ModelSpec, Selection
from edgewise.graphs.errors import EdgewiseError, SpecError

WHOLE: dict[str, dict[str, Any]] = {
    "models": {"source": '"smollm2-135m"'},
    "task": {"name": '"ioi"'},
    "discovery": {"method": '"eap-ig"', "top": "500"},
}


def toml(**tables: dict[str, Any] | None) -> str:
    """Write a spec; given tables are laid over a small valid one, None takes one away."""
    merged: dict[str, dict[str, Any]] = {name: dict(table) for name, table in WHOLE.items()}
    for name, table in tables.items():
        if table is None:
            del merged[name]
        else:
            merged[name] = {**merged.get(name, {}), **table}
    lines = []
    for name, table in merged.items():
        lines.append("[[models]]" if name == "models" else f"[{name}]")
        lines += [f"{key} = {value}" for key, value in table.items() if value is not None]
    return "\n".join(lines) + "\n"


def refusal(text: str, folder: Path | str = ".") -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, folder=folder)
    return str(caught.value)


OTHER: dict[type, Any] = {bool: True, int: 7, float: 0.5}


@pytest.mark.parametrize(
    ("method", "key"), [(name, key) for name, one in methods().items() for key in one.options]
)
def test_only_options_that_change_what_is_found_are_differences(method: str, key: str) -> None:
    option = methods()[method].options[key]
    other = option.choices[-1] if option.choices else OTHER[option.type]
    other = other / 2 if other == option.default == 0.5 else other
    needed = {"rule": "relp"} if key == "qk" else {}
    one = DiscoverySpec(method, options=needed)
    two = DiscoverySpec(method, options={**needed, key: other})
    named = [f"{key} {option.default} and {other}"]
    assert one.differences(two) == ([] if option.only_time else named)
    assert option.only_time == ("no influence on the result" in option.help)


# -- reading ------------------------------------------------------------------------------------


def test_defaults_are_filled_in() -> None:
    spec = parse_spec(toml())
    assert spec.models == (ModelSpec("smollm2-135m", "smollm2-135m"),)
    assert spec.base == spec.models[0]
    assert spec.variants == ()
    assert (spec.task.name, spec.task.examples, spec.task.seed) == ("ioi", 64, 0)
    assert spec.discovery == DiscoverySpec(
        "eap-ig", "logit_diff", "resample", {"steps": 5, "midpoint": False}, Selection(top=500)
    )
    assert spec.evaluation.metrics == ("logit_diff", "kl")
    assert (spec.drawing.formats, spec.drawing.top) == (("svg",), 120)
    assert (spec.compute.device, spec.compute.dtype) == ("auto", "float32")


def test_a_method_that_searches_minimises_kl_unless_told_otherwise() -> None:
    spec = parse_spec(toml(discovery={"method": '"acdc"', "top": None, "threshold": "1"}))
    assert spec.discovery.metric == "kl"
    assert spec.discovery.options["threshold"] == 1.0
    assert spec.evaluation.metrics == ("kl",)


def test_everything_can_be_said() -> None:
    spec = parse_spec(
        toml(
            experiment={"name": '"mine"', "description": '"a \\"test\\"\\nof two lines \\u007f"'},
            models={"name": '"base"'},
            task={"examples": "8", "seed": "3", "corruption": '"abc"', "bos": "true"},
            graph={"grouped_kv": "true"},
            discovery={"top": None, "faithfulness": "0.9", "signed": "true", "steps": "3",
                       "ablation": '"zero"',
                       "metric": '"log(p(answer)) - log(p(distractor))"'},
            evaluation={"metrics": '["kl", "accuracy"]', "curve": "true"},
            drawing={"formats": '["svg", "dot"]', "top": "30", "layout": '"built-in"'},
            compute={"device": '"cpu"', "dtype": '"float64"', "batch_size": "4"},
        )
    )  # fmt: skip
    assert spec.task.options == {"corruption": "abc"}
    assert spec.discovery.metric == "log(p(answer)) - log(p(distractor))"
    assert spec.discovery.select == Selection(faithfulness=0.9, signed=True)
    assert "largest score found" in str(spec.discovery.select)
    assert spec.evaluation.metrics == ("kl", "accuracy")
    assert spec.compute.batch_size == 4
    assert parse_spec(spec.to_toml()) == spec


def test_no_formats_mean_no_images() -> None:
    assert parse_spec(toml(drawing={"formats": "[]"})).drawing.formats == ()


def test_paths_start_from_the_specs_folder(
    tmp_path: Path, models: dict[str, Path], pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").symlink_to(models["llama"])
    file = tmp_path / "spec.toml"
    file.write_text(
        toml(models={"source": '"here"'}, task={"name": None, "file": '"pairs.jsonl"'}),
        encoding="utf-8-sig",
        newline="\r\n",
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    spec = read_spec("../spec.toml")
    assert spec.base == ModelSpec("here", "../here")
    assert Path(spec.task.file or "").read_bytes() == pairs.read_bytes()
    assert (spec.name, spec.task.name, spec.task.seed) == ("spec", "pairs", None)
    assert spec.task.examples is None


def test_reading_a_spec_loads_nothing_heavy(tmp_path: Path) -> None:
    file = tmp_path / "spec.toml"
    file.write_text(toml(discovery={"setps": "3"}))
    code = (
        "import sys\nfrom edgewise.errors import SpecError\n"
        "from edgewise.experiment.document import read_spec\n"
        f"try: read_spec({str(file)!r})\nexcept SpecError: pass\nelse: raise SystemExit('read')\n"
        "sys.exit(','.join({'torch', 'transformers', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- refusals -----------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, list[str]]] = {
    "no models": (toml(models=None), ["[[models]] is missing"]),
    "models as one table": (
        toml(models=None) + "[models]\nsource = 'a'\n",
        ["models is", "[[models]]"],
    ),
    "empty models": ("models = []\n" + toml(models=None), ["models is []", "one or more"]),
    "no source": (toml(models={"source": None, "name": '"a"'}), ["models[1].source is missing"]),
    "blank source": (toml(models={"source": '" "'}), ['models[1].source is " "', "not blank"]),
    "missing path": (toml(models={"source": '"./no"'}), ["models[1].source", "does not exist"]),
    "missing gguf": (toml(models={"source": '"no.gguf"'}), ["models[1].source", "does not exist"]),
    "no model there": (toml(models={"source": '"."'}), ["models[1].source", "config.json"]),
    "bad name": (toml(models={"name": '"a/b"'}), ["models[1].name is 'a/b'", "letters"]),
    "two alike": (
        '[[models]]\nsource = "x"\nname = "A"\n' + toml(models={"name": '"a"'}),
        ["models[2].name is 'a'", "a name of its own"],
    ),
    "model key": (toml(models={"sorce": '"x"'}), ["[models[1]]", "'sorce'", "mean 'source'?"]),
    "no task": (toml(task=None), ["task.name is missing"]),
    "unknown task": (toml(task={"name": '"ioy"'}), ["task.name 'ioy'", "mean 'ioi'?", "induction"]),
    "task key": (toml(task={"exmples": "3"}), ["[task]", "'exmples'", "mean 'examples'?"]),
    "key, task unknown": (
        toml(task={"name": '"ioy"', "sed": "1"}),
        ["mean 'ioi'?", "mean 'seed'?"],
    ),
    "examples": (toml(task={"examples": "0"}), ["task.examples is 0", "whole number from 1 up"]),
    "examples as text": (toml(task={"examples": '"8"'}), ['task.examples is "8"']),
    "bos": (toml(task={"bos": "1"}), ["task.bos is 1", "true or false"]),
    "task option": (toml(task={"corruption": '"abd"'}), ["task: ", "'abd'", "mean 'abc'?"]),
    "length": (toml(task={"length": "0"}), ["task: ", "length is '0'"]),
    "file and name": (
        toml(task={"file": '"x.jsonl"'}),
        ["task.file are both given", "one of them"],
    ),
    "missing file": (
        toml(task={"name": None, "file": '"x.jsonl"'}),
        ["task.file", "x.jsonl", "does not exist"],
    ),
    "seed of a file": (
        toml(task={"name": None, "file": '"x.jsonl"', "seed": "1"}),
        ["task.seed belongs to built-in tasks"],
    ),
    "graph": (toml(graph={"grouped_kv": '"yes"'}), ['graph.grouped_kv is "yes"', "true or false"]),
    "unknown method": (toml(discovery={"method": '"eap-gi"'}), ["'eap-gi'", "mean 'eap-ig'?"]),
    "method key": (toml(discovery={"setps": "3"}), ["[discovery]", "'setps'", "mean 'steps'?"]),
    "another method's": (
        toml(discovery={"threshold": "3"}),
        ["discovery.threshold is an option of method acdc", "not of 'eap-ig'"],
    ),
    "option's value": (toml(discovery={"steps": "0"}), ["'steps'", "is 0", "at least 1"]),
    "option's type": (toml(discovery={"steps": "2.5"}), ["'steps'", "2.5", "whole number"]),
    "unknown metric": (
        toml(discovery={"metric": '"logitdiff"'}),
        ["discovery.metric", "logit_diff"],
    ),
    "metric expression": (
        toml(discovery={"metric": '"logit(answr)"'}),
        ["discovery.metric", "did you mean 'answer'?", "logit(answr)\n", "^"],
    ),
    "metric without gradient": (
        toml(discovery={"metric": '"accuracy"'}),
        ["discovery.metric", "'accuracy' has no gradient"],
    ),
    "metric flat at the clean run": (
        toml(discovery={"method": '"eap"', "metric": '"kl"'}),
        ["discovery.metric", "'kl' is 0 at the clean run", "eap-ig"],
    ),
    "unknown ablation": (
        toml(discovery={"ablation": '"mena"'}),
        ["discovery.ablation", "resample"],
    ),
    "two selections": (toml(discovery={"above": "1"}), ["top and above are both given"]),
    "two selections, repeated": (
        toml(discovery={"above": "1"}, comparison={"noise_floor": "3"}),
        ["top and above are both given"],
    ),
    "connected alone": (
        toml(discovery={"top": None, "connected": "true"}),
        ["nothing says how many"],
    ),
    "target and top": (toml(discovery={"target": "0.9"}), ["top and target are both given"]),
    "signed alone": (
        toml(discovery={"top": None, "signed": "true"}),
        ["nothing says how many"],
    ),
    "signed is no number": (toml(discovery={"signed": "1"}), ["discovery.signed", "true or false"]),
    "signed acdc": (
        toml(discovery={"method": '"acdc"', "top": None, "signed": "true"}),
        ["discovery.signed", "'acdc' decides itself"],
    ),
    "acdc selects": (
        toml(discovery={"method": '"acdc"'}),
        ["discovery.top", "'acdc' decides itself"],
    ),
    "top": (toml(discovery={"top": "0"}), ["discovery.top is 0"]),
    "faithfulness": (
        toml(discovery={"top": None, "faithfulness": "1.5"}),
        ["discovery.faithfulness is 1.5", "up to 1"],
    ),
    "not a number": (toml(discovery={"top": None, "above": "nan"}), ["discovery.above is nan"]),
    "metrics": (toml(evaluation={"metrics": '"kl"'}), ['evaluation.metrics is "kl"', "a list"]),
    "no metrics": (toml(evaluation={"metrics": "[]"}), ["evaluation.metrics is []"]),
    "metric twice": (toml(evaluation={"metrics": '["kl", "kl"]'}), ["each once"]),
    "metric in list": (toml(evaluation={"metrics": '["kll"]'}), ["evaluation.metrics", "'kl'"]),
    "curve of acdc": (
        toml(discovery={"method": '"acdc"', "top": None}, evaluation={"curve": "true"}),
        ["evaluation.curve", "'acdc' does not score every edge"],
    ),
    "format": (toml(drawing={"formats": '["svgg"]'}), ["drawing.formats 'svgg'", "mean 'svg'?"]),
    "drawn edges": (toml(drawing={"top": "-1"}), ["drawing.top is -1"]),
    "too many drawn": (toml(drawing={"top": "100000"}), ["drawing.top is 100000", "1 to "]),
    "layout": (toml(drawing={"layout": '"builtin"'}), ["drawing.layout", "mean 'built-in'?"]),
    "dtype": (toml(compute={"dtype": '"float3"'}), ["compute.dtype", "mean 'float32'?"]),
    "table": (toml(evaluaton={}), ["unknown table 'evaluaton'", "mean 'evaluation'?"]),
    "table as value": ("task = 3\n" + toml(task=None), ["task is 3", "a table, [task]"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named(name: str, tmp_path: Path) -> None:
    text, expected = WRONG[name]
    message = refusal(text, tmp_path)
    for part in expected:
        assert part in message


def test_all_mistakes_are_named_at_once() -> None:
    message = refusal(
        toml(task={"exmples": "3"}, discovery={"steps": "0", "setps": "1"}, drawing={"top": "0"})
    )
    assert message.startswith("the spec has 4 problems:\n  - ")
    for part in ("exmples", "'steps'", "setps", "drawing.top"):
        assert part in message


def test_one_mistake_is_one_sentence_with_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text(toml(task={"seed": "-1"}))
    with pytest.raises(SpecError) as caught:
        read_spec(file)
    assert str(caught.value) == (f"{file}: task.seed is -1; accepted: a whole number from 0 up.")


def test_a_path_of_the_working_directory_is_not_taken_for_one_of_the_spec(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(models["llama"].parent)
    message = refusal(toml(models={"source": '"llama"'}), tmp_path)
    assert "models[1].source: 'llama' exists in the working directory but not beside" in message


def test_png_without_matplotlib_is_refused_early(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    assert "edgewise[draw]" in refusal(toml(drawing={"formats": '["png"]'}))
    assert parse_spec(toml()).drawing.formats == ("svg",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[task\n", ["line 1, column 6", "    [task\n         ^"]),
        ('a = 1\nb = "\n', ["line 2, column 6"]),
        ("a = 1\na = 2\n", ["line 2"]),
        ("a = ", ["ends too early, in line 1"]),
    ],
)
def test_a_syntax_error_has_a_place(text: str, expected: list[str]) -> None:
    message = refusal(text)
    assert message.startswith("the spec is not TOML: ")
    for part in expected:
        assert part in message


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="does not exist; expected an experiment's TOML"):
        read_spec(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="cannot read"):
        read_spec(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not text"):
        read_spec(tmp_path / "x.toml")


def test_a_spec_can_be_built_in_python() -> None:
    read = parse_spec(toml())
    built = Experiment("experiment", read.models, read.task, read.discovery, read.evaluation)
    assert built == read


@pytest.mark.parametrize(
    "text", [toml(discovery=None), toml(discovery={"top": None}), toml(discovery={"method": None})]
)
def test_what_is_not_said_is_the_usual_way(text: str) -> None:
    found = parse_spec(text).discovery
    said = "top" in text
    assert found == DiscoverySpec.usual(**({"select": Selection(top=500)} if said else {}))
    assert found.select == (Selection(top=500) if said else Selection.usual())


# -- greedy selection ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "greedy says in which order edges join, but nothing says how many edges to keep"),
        ({"above": 0.1}, "greedy and above are given together; accepted: greedy with top, and wi"),
        ({"target": 0.9}, "greedy and target are given together"),
        ({"faithfulness": 0.9}, "greedy and faithfulness are given together"),
        ({"top": 9, "stable": 0.9}, "greedy and stable are given together"),
    ],
)
def test_greedy_is_for_a_number_of_edges(fields: dict[str, float], words: str) -> None:
    with pytest.raises(EdgewiseError, match=words):
        Selection.of(greedy=True, **fields)


def test_greedy_in_words_and_in_a_file() -> None:
    select = Selection(top=9, signed=True, greedy=True, connected=True)
    assert str(select) == (
        "9 edges, each the one of largest score that leads to logits on ways from embed to logits"
    )
    spec = parse_spec(toml(discovery={"greedy": "true"}))
    assert spec.discovery.select == Selection(top=500, greedy=True)
    assert spec.discovery.block["greedy"] is True
