"""`edgewise roles` and `head_roles`: heads of circuits and of models, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgewise as package
from edgewise.graphs.errors import EdgewiseError, GraphMismatch
from edgewise.graphs.files import read_circuit, read_roles
from edgewise.graphs.roles import ON_TASK, ON_TOKENS
from edgewise.steps.head_roles import circuit_heads
from tests.edgewise.conftest import id_rows, tiny

FEW = ("--sequences", 4)


def document(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# -- the command --------------------------------------------------------------------------------


def test_the_heads_of_a_circuit(edgewise: Any, circuit: Path) -> None:
    result = edgewise("roles", circuit, *FEW, "--json", "-o", "roles.json")
    found, file = document(result), read_circuit(circuit)
    heads = [str(node) for node in circuit_heads(file)]
    assert [row["head"] for row in found["heads"]] == heads
    assert 0 < len(heads) < 8
    (model,) = found["models"]
    assert model["circuit"] == str(circuit)
    assert model["model"]["weights_sha256"] == file.model["weights_sha256"]
    assert model["task"]["sha256"] == file.task["sha256"]
    assert model["measures"]["examples"] == 6
    assert model["tokens"] | {"vocabulary": 0} == {
        "sequences": 4, "shortest": 4, "longest": 11, "first": "bos", "vocabulary": 0, "seed": 0,
    }  # fmt: skip
    for row in found["heads"]:
        assert all(row["scores"][key] is not None for key in (*ON_TOKENS, *ON_TASK[:-1]))
        assert sum(value or 0 for value in row["spans"].values()) == pytest.approx(1)
    assert found["output"] == "roles.json"
    assert [str(head.node) for head in read_roles("roles.json").models[0].heads] == heads
    assert "at most 11 tokens long" in result.stderr and "tokens count as copied" in result.stderr


def test_all_heads_and_the_table(edgewise: Any, circuit: Path) -> None:
    text = edgewise("roles", circuit, "--all", *FEW).stdout
    assert "the 8 heads" in text
    assert all(f"a{layer}.h{head} " in text for layer in range(2) for head in range(4))
    assert all(word in text for word in ("previous", "suppresses", "→ answer", "6 pairs used"))


def test_the_same_command_writes_the_same_file(edgewise: Any, circuit: Path) -> None:
    for name in ("a.json", "b.json"):
        edgewise("roles", circuit, *FEW, "-o", name)
    assert Path("a.json").read_bytes() == Path("b.json").read_bytes()


def test_models_of_different_shapes(edgewise: Any, models: Any, pairs: Path) -> None:
    asked = ["roles", "--model", models["gpt2"], "--model", models["deeper"], "--task", pairs]
    found = document(edgewise(*asked, *FEW, "--json"))
    assert [one["heads"] for one in found["models"]] == [4, 12]
    assert [one["model"]["layers"] for one in found["models"]] == [2, 3]
    assert found["comparison"]
    for one in found["comparison"]:
        names = [[row["head"] for row in found["heads"] if row["model"] == number
                  and (one["role"] in dict(row["roles"]) or (not one["role"] and not row["roles"]))]
                 for number in range(2)]  # fmt: skip
        assert [[head for head, _ in heads] for heads in one["heads"]] == names
    depths = {row["head"]: row["depth"] for row in found["heads"] if row["model"] == 1}
    assert depths["a0.h0"] == 0 and depths["a1.h3"] == 0.5 and depths["a2.h1"] == 1
    text = edgewise(*asked, *FEW, "--all").stdout
    named = any(one["role"] for one in found["comparison"])
    assert ("which, with their relative depth" in text) == named
    assert "heads by role" in text and "B as in A" in text and "heads of B" in text


def test_without_a_task_only_random_tokens_count(edgewise: Any, models: Any) -> None:
    found = document(edgewise("roles", "--model", models["llama"], *FEW, "--json"))
    assert found["models"][0]["task"] is None
    for row in found["heads"]:
        assert all(row["scores"][key] is None for key in ON_TASK)
        assert all(row["scores"][key] is not None for key in ON_TOKENS)
        assert set(row["spans"].values()) == {None}
    assert "→" not in edgewise("roles", "--model", models["llama"], *FEW, "--all").stdout


def test_a_circuit_in_another_model(edgewise: Any, circuit: Path, models: Any) -> None:
    result = edgewise("roles", circuit, "--model", models["tuned"], *FEW)
    assert "whose weights differ" in result.stderr
    result = edgewise("roles", circuit, "--model", models["deeper"], *FEW, status=1)
    assert "layers 2 and 3" in result.stderr and "is no circuit of" in result.stderr


def test_weights_that_have_changed(
    edgewise: Any, circuit: Path, models: Any, tmp_path: Path
) -> None:
    text = json.loads(circuit.read_text())
    text["model"]["weights_sha256"] = "0" * 64
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(text))
    said = edgewise("roles", changed, *FEW).stderr
    assert "the model has changed since, or the hash in the circuit's file has" in said
    assert "model.weights_sha256 is 000000000000…, the model's " in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'CIRCUIT.json', or --model"),
        (["--model", "a", "--task", "ioii"], "did you mean 'ioi'"),
        (["--model", "a", "--task-option", "x=1"], "--task-option needs --task"),
        (["--model", "a", "--sequences", 0], "range"),
    ],
)
def test_wrong_usage(edgewise: Any, arguments: list[object], words: str) -> None:
    assert words in edgewise("roles", *arguments, status=2).stderr


def test_a_model_in_place_of_a_circuit(edgewise: Any, models: Any) -> None:
    result = edgewise("roles", models["gpt2"], status=2)
    assert (
        f"is a directory, no circuit file; for all heads of a model: --model {models['gpt2']}"
        in (result.stderr)
    )


def test_models_and_circuits_that_do_not_go_together(edgewise: Any, circuit: Path) -> None:
    message = edgewise("roles", circuit, "--model", "a", "--model", "b", status=2).stderr
    assert "--model is given 2 times with 1 circuit" in message


def test_other_files_are_refused(edgewise: Any, circuit: Path) -> None:
    edgewise("roles", circuit, *FEW, "-o", "roles.json")
    assert "give the circuit it is of" in edgewise("roles", "roles.json", status=1).stderr
    assert "does not exist" in edgewise("roles", "none.json", status=1).stderr
    assert str(circuit) in edgewise("roles", circuit, "-o", circuit, status=1).stderr


def test_a_model_with_too_few_positions(edgewise: Any, tmp_path: Path) -> None:
    tiny("gpt2", n_positions=8).save_pretrained(tmp_path / "short")
    message = edgewise("roles", "--model", tmp_path / "short", status=1).stderr
    assert "31 tokens to draw from and 8 positions" in message and "9 positions or more" in message


# -- from Python --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> Any:
    return package.open_model(tiny("llama"))


def own_pairs(distractors: bool = True) -> Any:
    rows = id_rows()
    made = (
        package.Pair(
            tuple(row["clean_ids"]), tuple(row["corrupted_ids"]), tuple(row["answer_ids"]),
            tuple(row["distractor_ids"]) if distractors else (),
        )
        for row in rows
    )  # fmt: skip
    return package.PromptPairs(tuple(made))


def test_chosen_heads(session: Any) -> None:
    found = package.head_roles(session, own_pairs(), heads=["a1.h2", "a0.h1"], sequences=2)
    assert [str(head.node) for head in found.heads] == ["a0.h1", "a1.h2"]
    with pytest.raises(GraphMismatch, match=r"no head a4\.h0"):
        package.head_roles(session, heads=["a4.h0"], sequences=2)
    with pytest.raises(EdgewiseError, match="m1 is no attention head"):
        package.head_roles(session, heads=["m1"], sequences=2)


def test_the_first_pairs_are_used(session: Any) -> None:
    pairs = own_pairs()
    few = package.head_roles(session, pairs, examples=2, sequences=2)
    first = package.head_roles(session, package.PromptPairs(pairs.pairs[:2]), sequences=2)
    assert few.measures["examples"] == 2 and few.task is not None
    assert few.task["examples"] == 6
    assert [head.scores for head in few.heads] == [head.scores for head in first.heads]
    with pytest.raises(EdgewiseError, match="examples is 0"):
        package.head_roles(session, pairs, examples=0)


def test_pairs_without_distractors_are_noted(session: Any) -> None:
    found = package.head_roles(session, own_pairs(distractors=False), sequences=2)
    assert any("no distractors" in note for note in found.notes)
    assert all(head.spans["distractor"] is None for head in found.heads)


def test_shares_need_a_model_that_prefers_the_answers(session: Any) -> None:
    rows = own_pairs()
    turned = package.PromptPairs(
        tuple(package.Pair(p.clean, p.corrupted, p.distractors, p.answers) for p in rows)
    )
    found = [package.head_roles(session, one, sequences=2) for one in (rows, turned)]
    differences = [one.measures["logit_difference"] for one in found]
    assert differences[0] == pytest.approx(-differences[1])
    better, worse = sorted(found, key=lambda one: -one.measures["logit_difference"])
    assert any("does not prefer the answers" in note for note in worse.notes)
    assert not any("does not prefer the answers" in note for note in better.notes)
    assert all(head.scores["direct_share"] is None for head in worse.heads)
    total = better.measures["logit_difference"]
    for head in better.heads:
        share, direct = head.scores["direct_share"], head.scores["direct"]
        assert share is not None and direct is not None
        np.testing.assert_allclose(share * total, direct)


def test_another_seed_gives_other_tokens(session: Any) -> None:
    first, same, other = (package.head_roles(session, sequences=2, seed=seed) for seed in (0, 0, 1))
    assert [h.scores for h in first.heads] == [h.scores for h in same.heads]
    assert [h.scores for h in first.heads] != [h.scores for h in other.heads]


def test_a_model_that_knows_few_words(edgewise: Any, models: Any) -> None:
    found = document(edgewise("roles", "--model", models["words"], *FEW, "--json"))
    tokens = found["models"][0]["tokens"]
    assert (tokens["vocabulary"], tokens["longest"], tokens["first"]) == (16, 11, "random")
