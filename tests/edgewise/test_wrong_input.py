"""Wrong input, as a new user gives it: one paragraph, exit status 1 or 2, never a traceback."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

FAILED, USAGE = 1, 2


@pytest.fixture
def refused(edgewise: Any) -> Any:
    """Run a command line that must fail, and return what it says in one paragraph."""

    def run(*arguments: object, status: int = FAILED) -> str:
        before = sorted(path.name for path in Path().iterdir())
        result = edgewise(*arguments, status=status)
        assert result.stdout == ""
        assert sorted(path.name for path in Path().iterdir()) == before, "a file was left"
        _, found, message = result.stderr.rpartition("Error: ")
        assert found and message.strip() and "\n\n" not in result.stderr.strip()
        return str(message)

    return run


@pytest.fixture
def line(models: Any, pairs: Path) -> list[object]:
    """Return a discovery that lacks its method."""
    return ["discover", "--model", models["gpt2"], "--task", pairs, "-o", "x.json"]


# -- files that are missing or damaged -----------------------------------------------------------


@pytest.mark.parametrize("command", ["evaluate none.json", "diff none.json none.json"])
def test_missing_circuit(refused: Any, command: str) -> None:
    assert "none.json does not exist" in refused(*command.split())


def test_missing_file_to_draw(refused: Any) -> None:
    assert "none.json does not exist" in refused("draw", "none.json", "-o", "x.svg")


def test_missing_pairs(refused: Any, models: Any) -> None:
    message = refused(
        "discover", "--model", models["gpt2"], "--task", "none.jsonl", "--method", "eap", "--top",
        "5", "-o", "x.json", status=USAGE,
    )  # fmt: skip
    assert "none.jsonl" in message and "No such file" in message


def test_missing_model(refused: Any) -> None:
    assert "does not exist" in refused("lift", "./nowhere")


def test_circuit_cut_in_half(refused: Any, circuit: Path) -> None:
    text = circuit.read_text()
    circuit.write_text(text[: len(text) // 2])
    for command in (["evaluate", circuit], ["diff", circuit, circuit]):
        assert "cut off" in refused(*command)
    assert "cut off" in refused("draw", circuit, "-o", "x.svg")


def test_a_diff_is_no_circuit(edgewise: Any, refused: Any, circuit: Path) -> None:
    edgewise("diff", circuit, circuit, "-o", "d.json")
    assert "diff of two circuits" in refused("evaluate", "d.json")


# -- models and prompts --------------------------------------------------------------------------


def test_unsupported_family(refused: Any, tmp_path: Path) -> None:
    from transformers import BertConfig, BertLMHeadModel

    sizes = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 8}
    config = BertConfig(vocab_size=31, num_hidden_layers=1, is_decoder=True, **sizes)
    BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
    message = refused("lift", tmp_path / "bert")
    assert "of type 'bert', which cannot be lifted" in message and "llama" in message


def text_pairs(path: Path, *rows: dict[str, Any]) -> Path:
    good = {"clean": "a b c", "corrupted": "a d c", "answers": ["e"], "distractors": ["f"]}
    path.write_text("".join(json.dumps({**good, **row}) + "\n" for row in ({}, *rows)))
    return path


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"corrupted": "a b c d"}, ["line 2", "clean has 3 tokens and corrupted 4"]),
        ({"answers": ["e f"]}, ["line 2", "which is 2 tokens"]),
        ({"answers": ["zebra"]}, ["line 2", "does not know"]),
        ({"answers": []}, ["line 2", "empty"]),
    ],
)
def test_wrong_pairs(
    refused: Any, models: Any, tmp_path: Path, row: dict[str, Any], words: list[str]
) -> None:
    path = text_pairs(tmp_path / "wrong.jsonl", row)
    message = refused(
        "patch", "--model", models["words"], "--task", path, "--path", "m0->logits"
    )  # fmt: skip
    assert all(word in message for word in words), message


def test_empty_data(refused: Any, line: list[object], pairs: Path) -> None:
    pairs.write_text("\n")
    assert "holds no prompt pairs" in refused(*line, "--method", "eap", "--top", 5)


def test_text_without_a_tokenizer(refused: Any, models: Any, tmp_path: Path) -> None:
    path = text_pairs(tmp_path / "text.jsonl")
    message = refused("patch", "--model", models["gpt2"], "--task", path, "--path", "m0->logits")
    assert "no tokenizer" in message


def test_ids_beyond_the_vocabulary(refused: Any, models: Any, tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_text('{"clean_ids": [1, 99], "corrupted_ids": [2, 4], "answer_ids": [3]}\n')
    message = refused("patch", "--model", models["gpt2"], "--task", path, "--path", "m0->logits")
    assert "99" in message and "line 1" in message


# -- names and options ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "near"),
    [
        ("--method", "eap-gi", "eap-ig"),
        ("--metric", "logit_dif", "logit_diff"),
        ("--task", "ioii", "ioi"),
        ("--ablation", "resampel", "resample"),
        ("--dtype", "float31", "float32"),
    ],
)
def test_unknown_names(
    refused: Any, line: list[object], option: str, value: str, near: str
) -> None:
    message = refused(*line, "--method", "eap", "--top", 5, option, value, status=USAGE)
    assert f"did you mean '{near}'?" in message


def test_unknown_device(refused: Any, models: Any) -> None:
    assert "unknown device 'gpu'" in refused("lift", models["gpt2"], "--device", "gpu")


def test_wrong_metric_expression(refused: Any, line: list[object]) -> None:
    wrong = ["--metric", "logit(answer) - logit(banana)"]
    message = refused(*line, "--method", "eap", "--top", 5, *wrong, status=USAGE)
    assert "banana" in message
    assert "^\nSee '" in message  # the mark stands alone


def test_weights_in_place_of_scores(refused: Any, models: Any) -> None:
    weights = models["gpt2"] / "model.safetensors"
    message = refused("draw", weights, "--as", "heat-map", "-o", "x.svg")
    assert f"{weights} is no scores file: it holds the tensors " in message


def test_unknown_option_and_command(refused: Any, line: list[object]) -> None:
    assert "--stepz" in refused(*line, "--method", "eap-ig", "--stepz", 4, status=USAGE)
    assert "No such command" in refused("discvoer", status=USAGE)


def test_options_of_another_method(refused: Any, line: list[object]) -> None:
    message = refused(*line, "--method", "eap-ig", "--threshold", 0.1, status=USAGE)
    assert "--steps, --midpoint" in message and "--threshold is an option of acdc" in message
    message = refused(*line, "--method", "eap", "--steps", 4, status=USAGE)
    assert "Accepted: --rule, --qk" in message
    assert "--steps is an option of conductance, eap-ig" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "acdc", "--top", 5], "selects its edges itself"),
        (["--method", "eap", "--top", 5, "--above", 0.1], "top and above"),
        (["--method", "eap", "--top", 0], "from 1 up"),
        (["--method", "eap", "--faithfulness", 1.5], "above 0, up to 1"),
        (["--method", "eap-ig", "--steps", 0], "at least 1"),
        (["--method", "acdc", "--threshold", "nan"], "a finite number"),
        (["--method", "acdc", "--threshold", "much"], "not a valid float"),
        (["--method", "eap", "--examples", 0], "range"),
        (["--method", "eap", "--task-option", "corruption=flip"], "come from a file"),
        (["--method", "eap", "--task", "ioi", "--task-option", "flip"], "NAME=VALUE"),
        (["--method", "eap", "--task", "ioi", "--task-option", "corruption=no"], "third-name"),
        (["--method", "eap", "--task", "ioi", "--task-option", "corrupt=no"], "corruption"),
        (["--method", "eap", "--task", "ioi", "--task-option", "length=no"], "number of tokens"),
    ],
)
def test_values_that_make_no_sense(
    refused: Any, line: list[object], arguments: list[object], words: str
) -> None:
    assert words in refused(*line, *arguments, status=USAGE)


def test_more_edges_than_there_are(refused: Any, line: list[object]) -> None:
    message = refused(*line, "--method", "eap", "--top", 10**6)
    assert "1,000,000" in message and "edges" in message


@pytest.mark.parametrize(
    "arguments", [["--method", "eap", "--above", 1e9], ["--method", "acdc", "--threshold", 1e9]]
)
def test_a_threshold_that_keeps_nothing(
    refused: Any, line: list[object], arguments: list[object]
) -> None:
    message = refused(*line, *arguments)
    assert "keeps no edge" in message and "choose a smaller" in message


def test_plain_attribution_refuses_kl(refused: Any, line: list[object]) -> None:
    message = refused(*line, "--method", "eap", "--metric", "kl", "--top", 5, status=USAGE)
    assert "kl" in message and "gradient" in message


@pytest.mark.parametrize("path", ["a0.h0", "a9.h0->logits", "m1->a0.h0<q>->logits", "->"])
def test_paths_that_do_not_exist(refused: Any, models: Any, pairs: Path, path: str) -> None:
    assert refused("patch", "--model", models["gpt2"], "--task", pairs, "--path", path)


# -- circuits that do not fit, places that cannot be written -------------------------------------


def test_circuits_of_different_models(
    edgewise: Any, refused: Any, circuit: Path, models: Any, pairs: Path
) -> None:
    edgewise(
        "discover", "--model", models["deeper"], "--task", pairs, "--method", "eap", "--top", 5,
        "-o", "deeper.json",
    )  # fmt: skip
    message = refused("diff", circuit, "deeper.json")
    assert "cannot be compared" in message and "layers 2 and 3" in message
    overlap = refused("draw", circuit, "deeper.json", "--as", "overlap", "-o", "o.svg")
    assert "layers 2 and 3" in overlap and "edgewise roles" in overlap


def test_what_is_of_the_models_without_a_look_into_them(refused: Any, circuit: Path) -> None:
    for given in (("--level", "0.1"), ("--delta", "0.1"), ("--no-controls",), ("--model-b", "x")):
        message = refused("diff", circuit, circuit, "--no-paired", *given, status=USAGE)
        assert f"{given[0].replace('--no-', '--')} is for what is done in the models" in message
    both = ("--delta", "0.1", "--delta-share", "0.1")
    assert "given together" in refused("diff", circuit, circuit, *both, status=USAGE)


def test_output_that_cannot_be_written_is_refused_at_once(
    refused: Any, circuit: Path, pairs: Path
) -> None:
    for command in (
        ["discover", "--model", "./never-loaded", "--task", pairs, "--method", "eap"],
        ["diff", circuit, circuit],
    ):
        assert "does not exist" in refused(*command, "-o", "none/x.json")
        assert "is a directory" in refused(*command, "-o", ".")
    assert "does not exist" in refused("draw", circuit, "-o", "none/x.svg")


def test_unknown_ending_of_a_drawing(refused: Any, circuit: Path) -> None:
    message = refused("draw", circuit, "-o", "x.jpeg", status=USAGE)
    assert ".png" in message


def test_mistakes_of_our_own_ask_for_a_report(
    refused: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a\nb")

    monkeypatch.setattr("edgewise.graphs.lift.lifting.describe", broken)
    message = refused("lift", models["gpt2"])
    assert message.count("\n") == 1 and "EDGEWISE_TRACEBACK=1" in message


def test_output_that_is_an_input(refused: Any, models: Any, pairs: Path, circuit: Path) -> None:
    before = pairs.read_text(), circuit.read_text()
    line = ["discover", "--model", models["gpt2"], "--task", pairs, "--method", "eap", "--top", "5"]
    assert "is the input" in refused(*line, "-o", pairs)
    assert "is the input" in refused("diff", circuit, circuit, "-o", circuit)
    assert (pairs.read_text(), circuit.read_text()) == before


def test_more_threads_than_any_machine_has(refused: Any, line: list[object]) -> None:
    assert "--threads" in refused(*line, "--method", "eap", "--threads", 10**8, status=USAGE)


def test_of_two_files_it_is_said_which_was_written(
    edgewise: Any, models: Any, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk fills up between scores and circuit, the scores do not stay without a word."""
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == "a.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    common = ("discover", "--model", models["gpt2"], "--task", pairs, "--method", "eap", "-o")
    said = edgewise(*common, "a.json", "--top", 5, "--scores", status=1).stderr
    assert "cannot write a.json: no space left" in said
    assert "Its scores are written: a.scores.safetensors." in " ".join(said.split())
    assert sorted(os.listdir()) == ["a.scores.safetensors", "pairs.jsonl"]
    assert "scores are" not in edgewise(*common, "a.json", "--top", 5, status=1).stderr


# -- poor words ----------------------------------------------------------------------------------

NEVER = ["--model", "./never-loaded", "--task", "induction"]


@pytest.mark.parametrize(
    "command",
    [
        ["diff", "a.json", "b.json"],
        ["discover", *NEVER, "--method", "acdc"],
        ["draw", "a.json"],
        ["roles", "a.json"],
        ["run", "a.toml"],
        ["timeline", "./a", "./b", "--task", "induction", "--method", "eap", "--top", "3"],
        ["transplant", "./a", "./b", "--task", "induction"],
    ],
    ids=lambda command: command[0],
)
def test_an_empty_output_is_named_as_such(refused: Any, command: list[str]) -> None:
    for empty in ("", " "):
        message = refused(*command, "-o", empty, status=USAGE)
        assert "Invalid value for '-o' / '--output': it is empty; accepted: a name." in message


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", ""],
        ["diff", "", "a.json"],
        ["draw", "", "-o", "x.svg"],
        ["draw", "a.json", "--roles", "", "-o", "x.svg"],
        ["run", ""],
        ["roles", ""],
        ["discover", "--model", "", "--task", "induction", "--method", "acdc", "-o", "x.json"],
        ["discover", *NEVER, "--method", "refine", "--from", "", "-o", "x.json"],
        ["transplant", "./a", "./b", "--task", "induction", "--circuit", ""],
        ["timeline", "a", "b", "--task", "induction", "--method", "eap", "--cache", ""],
    ],
    ids=" ".join,
)
def test_an_empty_name_of_a_file_is_named_as_such(refused: Any, command: list[str]) -> None:
    assert "it is empty; accepted: a name. Give the one that was meant." in refused(
        *command, status=USAGE
    )


@pytest.mark.parametrize("lines", [1, 2])
@pytest.mark.parametrize(
    "command", [["evaluate"], ["draw", "-o", "x.svg"], ["roles"], ["diff", "none.json"]], ids=str
)
def test_prompt_pairs_in_place_of_a_circuit(
    refused: Any, pairs: Path, command: list[str], lines: int
) -> None:
    rows = pairs.read_text().splitlines(keepends=True)
    Path("pairs.jsonl").write_text("".join(rows[:lines]))
    name, *others = command
    message = refused(name, "pairs.jsonl", *others)
    assert "damaged" not in message and "not a circuit" in message
    assert ("JSON Lines" if lines > 1 else "edgewise/circuit") in message
    assert message.strip().endswith("prompt pairs are given as --task.")


def test_a_circuit_in_place_of_a_spec(refused: Any, circuit: Path) -> None:
    message = refused("run", circuit)
    assert "not TOML but JSON" in message and "edgewise evaluate" in message
    assert "declares an experiment's models, task and discovery" in message
    assert "is a directory" in refused("run", ".")


def test_a_list_of_one_line_in_place_of_a_circuit_is_no_pair(refused: Any) -> None:
    Path("list.json").write_text("[]")
    assert "prompt pairs" not in refused("evaluate", "list.json")
