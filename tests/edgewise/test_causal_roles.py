"""`edgewise roles --causal`: roles by pattern and effect, on a model whose heads are known."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgewise as package
from edgewise.graphs.errors import FileFormatError, GraphMismatch
from edgewise.graphs.files import read_roles, write_roles
from edgewise.graphs.names import Node
from edgewise.patching.heads.attended import attention
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.prompts.splits import PromptSplit
from edgewise.steps.causal.evidence import Effect, Evidence, nearest, quantile
from edgewise.steps.causal.measure import causal_roles
from edgewise.steps.causal.same_answer import same_answer
from tests.edgewise.conftest import tiny
from tests.edgewise.hand_made_ioi import hand_made, hand_made_pairs

ROLES = {
    "a0.h0": ["duplicate token"],
    "a0.h1": ["previous token"],
    "a1.h0": ["induction"],
    "a2.h0": ["S-inhibition"],
    "a3.h0": ["name mover"],
    "a3.h1": ["negative name mover"],
}
MOVER_Q, INHIBITION_KV = "→ name mover<q>", "→ S-inhibition<k,v>"


@pytest.fixture(scope="module")
def session() -> Any:
    return package.open_model(hand_made())


@pytest.fixture(scope="module")
def split() -> PromptSplit:
    return PromptSplit(hand_made_pairs(), hand_made_pairs(seed=1))


@pytest.fixture(scope="module")
def found(session: Any, split: PromptSplit) -> Any:
    return causal_roles(session, split)


def test_every_head_gets_its_role_and_no_other_does(found: Any) -> None:
    assert {str(one.node): one.roles for one in found.nodes if one.roles} == ROLES
    assert found["a2.h1"].labels == ()  # the same attention as a2.h0, and no effect
    assert found["a2.h1"].patterns == pytest.approx(found["a2.h0"].patterns)


def test_effects_are_what_the_weights_say(found: Any) -> None:
    # names of the prompt: the mover adds 3 to one, the negative one takes 1 away
    assert found.sides["held_out"].loss_full == pytest.approx(-2, abs=1e-3)
    assert found.sides["held_out"].loss_empty == pytest.approx(0, abs=1e-3)
    assert found["a3.h0"].effect("direct").mean == pytest.approx(3, abs=1e-3)
    assert found["a3.h1"].effect("direct").mean == pytest.approx(-1, abs=1e-3)
    # without inhibition the mover takes half of each name: all of its 3 is lost
    assert found["a2.h0"].effect(MOVER_Q).mean == pytest.approx(3, abs=1e-3)
    for head in ("a0.h0", "a1.h0"):  # both flags are needed
        assert found[head].effect(INHIBITION_KV).mean == pytest.approx(3, abs=1e-3)
    assert found["a0.h1"].effect("→ induction<k>").mean == pytest.approx(3, abs=1e-3)
    assert found["a2.h0"].effect("direct").mean == pytest.approx(0, abs=1e-6)
    assert found["m1"].effect("direct").mean == 0  # MLPs stand in the same table, and write nothing
    assert found["a3.h1"].effect(MOVER_Q) is None  # no edge leads there


def test_attention_stands_at_every_named_part(found: Any) -> None:
    ends = found["a2.h0"].attention["end"]
    assert ends["s2"] == pytest.approx(1, abs=1e-3)
    assert sum(ends.values()) == pytest.approx(1)
    assert found["a0.h0"].attention["s2"]["s1"] == pytest.approx(1, abs=1e-3)
    assert found["a3.h0"].attention["end"]["io"] == pytest.approx(1, abs=1e-3)


def test_the_control_leaves_the_answer_and_has_no_effect(found: Any) -> None:
    control = found.sides["held_out"].control
    assert control is not None and control["examples"] > 10
    assert control["loss_empty"] == pytest.approx(control["loss_full"], abs=1e-4)
    for node in found.nodes:
        for label in node.labels:
            assert [one.control for one in label.seen] == pytest.approx([0, 0], abs=1e-4)


def test_what_does_not_hold_again_is_not_confirmed(session: Any, split: PromptSplit) -> None:
    turned = tuple(
        replace(pair, answers=pair.distractors, distractors=pair.answers)
        for pair in hand_made_pairs(seed=2)
    )
    other = PromptSplit(split.discovery, PromptPairs(turned))
    found = causal_roles(session, other)
    assert found["a3.h0"].labels[0].seen[0].holds and not found["a3.h0"].roles
    assert any("'S-inhibition' is not measured" in note for note in found.notes)


def test_without_held_out_pairs(session: Any, split: PromptSplit) -> None:
    found = causal_roles(session, split.discovery)
    assert list(found.sides) == ["in_sample"]
    assert {str(one.node): one.roles for one in found.nodes if one.roles} == ROLES


def test_relations_and_parts_sum_up(split: PromptSplit) -> None:
    model = package.open_model(tiny("llama")).lifted
    seen = attention(model, split.discovery)
    there = np.nan_to_num(seen.between).sum(-1)
    assert there == pytest.approx(np.ones_like(there))
    io, end, s2 = (seen.spans.index(name) for name in ("io", "end", "s2"))
    assert seen.relations["end → answer"] == pytest.approx(seen.between[:, :, end, io])
    assert seen.relations["end → last distractor"] == pytest.approx(seen.between[:, :, end, s2])
    s1 = seen.spans.index("s1")
    assert seen.relations["again → before"] == pytest.approx(seen.between[:, :, s2, s1])


def test_names_are_not_needed(session: Any) -> None:
    plain = PromptPairs(tuple(replace(pair, declared=()) for pair in hand_made_pairs()))
    found = causal_roles(session, plain)
    assert set(found.spans) == {"first", "answer", "distractor", "rest", "end"}
    assert found["a3.h0"].roles == ["name mover"] and found["a2.h0"].roles == ["S-inhibition"]
    assert any("'duplicate token' is not measured: no prompt has" in one for one in found.notes)


def test_the_control_exchanges_what_does_not_decide() -> None:
    pairs = hand_made_pairs()
    made = same_answer(pairs)
    assert made is not None
    for pair in made:
        assert pair.corrupted is not None and pair.corrupted != pair.clean
        assert all(pair.corrupted[at] == pair.clean[at] for at in (0, 1, 3, 5, 7))
    assert same_answer(PromptPairs(pairs.pairs[:3])) is None


def test_the_null_has_no_candidates() -> None:
    heads = [Node.parse(f"a{layer}.h{i}") for layer in range(4) for i in range(12)]
    weights = np.zeros((4, 12))
    weights[1, :6] = 0.5
    near = nearest(heads[12], weights, heads, number=40)
    assert heads[12] not in near and len(near) == 40
    assert not {Node.parse(f"a1.h{i}") for i in range(6)} & set(near)
    assert {node.layer for node in nearest(heads[12], weights, heads, number=6)} == {1}
    assert quantile(list(range(40))) == 37


def test_what_must_hold() -> None:
    effect = Effect(1.0, (0.5, 1.5))
    good = Evidence(0.5, effect, 1, 0.2, 40, 0.0)
    assert good.holds and replace(good, control=None).holds
    for change in (
        {"weight": 0.1}, {"null": 1.0}, {"null": None}, {"control": -0.3}, {"sign": -1},
        {"effect": Effect(1.0, (-0.1, 2.0))}, {"effect": Effect(1.0, None)},
    ):  # fmt: skip
        assert not replace(good, **change).holds
    clusters = np.arange(8)
    assert Effect.of(np.full(8, 0.01), clusters, 2.0).interval is None


def test_heads_that_do_not_write_to_the_stream_are_refused(split: PromptSplit) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=4, max_position_embeddings=24,
    )  # fmt: skip
    session = package.open_model(Gemma2ForCausalLM(config).eval())
    with pytest.raises(GraphMismatch, match="no edge leads from a head to the logits"):
        causal_roles(session, split)


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hand-made")
    hand_made().save_pretrained(path / "model")
    pairs = (*hand_made_pairs(), *hand_made_pairs(seed=1))
    rows = (
        {
            "clean_ids": pair.clean, "corrupted_ids": pair.corrupted, "answer_ids": pair.answers,
            "distractor_ids": pair.distractors, "group": pair.group,
            "spans": dict(pair.declared),
        }
        for pair in pairs
    )  # fmt: skip
    (path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_command(edgewise: Any, folder: Path) -> None:
    line = ["roles", "--model", folder / "model", "--task", folder / "pairs.jsonl", "--causal",
            "--examples", 24, "--test", 24, "--sequences", 4]  # fmt: skip
    text = edgewise(*line, "-o", "roles.json").stdout
    assert "found on" in text and "confirmed on" in text and "same answer" in text
    for head, roles in ROLES.items():
        assert re.search(rf"^{roles[0]} +{head} ", text, re.MULTILINE), text
    document = json.loads(edgewise(*line, "--json").stdout)
    nodes = {row["node"]: row for row in document["nodes"]}
    assert {name: row["roles"] for name, row in nodes.items() if row["roles"]} == ROLES
    assert set(nodes["m3"]["effects"]["direct"]) == {"in_sample", "held_out"}
    (evidence,) = nodes["a2.h0"]["evidence"]
    assert evidence["confirmed"] and evidence["way"] == MOVER_Q
    assert evidence["held_out"]["effect"]["mean"] == pytest.approx(3, abs=1e-3)
    assert document["models"][0]["causal"]["receivers"]["S-inhibition"] == ["a2.h0"]
    read = read_roles("roles.json")
    write_roles("again.json", read)
    assert Path("again.json").read_bytes() == Path("roles.json").read_bytes()


def test_a_damaged_file_is_refused(edgewise: Any, folder: Path) -> None:
    edgewise("roles", "--model", folder / "model", "--task", folder / "pairs.jsonl", "--causal",
             "--examples", 8, "--test", 0, "--sequences", 2, "-o", "roles.json")  # fmt: skip
    whole = json.loads(Path("roles.json").read_text())
    for change, words in (
        ({"model": 4}, "model is 4; accepted: 0 to 0"),
        ({"node": "b3"}, "b3"),
        ({"effects": None}, ""),
    ):
        rows = [{**whole["nodes"][0], **change}, *whole["nodes"][1:]]
        if change == {"effects": None}:
            del rows[0]["effects"]
        Path("bad.json").write_text(json.dumps({**whole, "nodes": rows}))
        with pytest.raises(FileFormatError, match=words or "accepted: an object with model, node"):
            read_roles("bad.json")
    del whole["models"][0]["causal"]
    Path("bad.json").write_text(json.dumps(whole))
    with pytest.raises(FileFormatError, match="has no block 'causal'"):
        read_roles("bad.json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--causal"], "--causal measures what heads cause on a task; give --task, or a circuit"),
        (["--metric", "kl"], "--metric needs --causal"),
        (["--task", "ioi", "--test", "4"], "--test needs --causal"),
        (["--task", "ioi", "--causal", "--ablation", "zer"], "did you mean 'zero'"),
    ],
)
def test_wrong_usage(edgewise: Any, folder: Path, arguments: list[str], words: str) -> None:
    assert words in edgewise("roles", "--model", folder / "model", *arguments, status=2).stderr


def test_a_circuit_brings_its_own_task(edgewise: Any, circuit: Path) -> None:
    result = edgewise("roles", circuit, "--causal", "--sequences", 4, "--json")
    (model,) = json.loads(result.stdout)["models"]
    assert model["causal"]["metric"] == "logit_diff"
    assert model["causal"]["sides"]["in_sample"]["examples"] == 6
