"""Every type of the installed transformers is split into heads, has parts whole, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import ArceeConfig, ArceeForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from edgewise.graphs.files import read_circuit
from edgewise.graphs.lift.families._refused import refusals
from edgewise.graphs.lift.families._types import UNKNOWN, WORDS, decoder_types
from edgewise.graphs.lift.lifting import families
from tests.engine import one_of_each_type
from tests.shapes import LLAMA
from tests.wrappers import WRAPPERS


def test_every_type_has_one_fate_and_a_reason() -> None:
    found = {one.model_type: one for one in decoder_types()}
    assert set(found) >= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert not set(families()) & set(refusals(families()))
    unknown = [kind for kind, one in found.items() if one.why == UNKNOWN]
    assert not unknown
    for kind, one in found.items():
        assert one.lift in WORDS, kind
        assert one.why, kind
        meant = one.text or kind
        assert (one.lift == "refused") == (meant in refusals(families())), kind
        assert (one.why == UNKNOWN) == (meant not in {*families(), *refusals(families())}), kind


def test_every_whole_model_around_a_text_model_is_lifted_in_a_test() -> None:
    """Text bodies are read and compared in tests/graphs/test_loading_text_bodies.py."""
    around = {one.model_type for one in decoder_types() if one.text and one.lift != "refused"}
    assert around - {"gpt-sw3"} <= set(WRAPPERS)  # GPT-SW3 is another name for GPT-2


def test_a_hundred_types_are_lifted_each_from_a_tiny_configuration() -> None:
    lifted = {one.model_type for one in decoder_types() if one.lift != "refused" and not one.text}
    assert lifted <= set(one_of_each_type())
    assert len(lifted) >= 100


def test_the_command_lists_them(edgewise: Any) -> None:
    rows = json.loads(edgewise("lift", "--types", "--json").stdout)
    assert [row["model_type"] for row in rows] == sorted(row["model_type"] for row in rows)
    assert all(list(row) == ["model_type", "class", "lift", "why"] for row in rows)
    known = {row["model_type"]: row for row in rows}
    assert known["llama"]["class"] == "LlamaForCausalLM"
    assert known["llama"]["lift"] == "heads"
    assert known["mamba"]["lift"] == "whole"
    assert known["bert"]["lift"] == "refused"
    text = edgewise("lift", "--types").stdout
    for words in WORDS.values():
        assert words in text
    assert "Name a MODEL, or ask for --types" in edgewise("lift", status=2).stderr
    assert "one of the two" in edgewise("lift", "smollm2-135m", "--types", status=2).stderr


def test_every_command_that_opens_a_model_takes_a_family_to_try(
    edgewise: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    ArceeForCausalLM(ArceeConfig(**LLAMA)).save_pretrained(tmp_path / "a")
    ArceeForCausalLM(ArceeConfig(**LLAMA)).save_pretrained(tmp_path / "b")
    pair = {"clean_ids": [3, 1, 4], "corrupted_ids": [3, 2, 4], "answer_ids": [5],
            "distractor_ids": [6]}  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    (tmp_path / "list.json").write_text('[["a0.h1", "a1.h2.q"], ["a1.h2", "m1"]]')
    task, tried = ("--task", "pairs.jsonl"), ("--try-family", "shape")
    found = ("--method", "eap", "--top", 60)
    edgewise("discover", "--model", "a", *task, *found, "-o", "found.json", *tried)
    assert read_circuit(tmp_path / "found.json").model["tried_family"] == "shape"
    foreign = ("list.json", "--model", "a")
    for words in (
        ("lift", "a"),
        ("evaluate", "found.json"),
        ("evaluate", *foreign, *task),
        ("patch", "--model", "a", *task, "--path", "m0->logits"),
        ("roles", "--model", "a", "--sequences", 1),
        ("roles", "found.json", "--sequences", 1),
        ("roles", *foreign, "--sequences", 1),
        ("timeline", "a", "b", *task, *found, "--no-cache"),
        ("transplant", "a", "b", *task, "--circuit", "found.json"),
        ("diff", "found.json", "found.json", "--cross"),
        ("diff", "list.json", "list.json", "--model-a", "a", "--model-b", "a"),
        ("import", *foreign, "-o", "imported.json"),
        ("draw", *foreign, "-o", "drawn.svg"),
    ):
        said = edgewise(*words, "--try-family", "lama", status=1).output
        assert "unknown family 'lama'; did you mean 'llama'" in said, words


def test_a_directory_is_refused_with_the_reason_or_described_as_another_type(
    edgewise: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    old = OpenAIGPTConfig(vocab_size=31, n_embd=16, n_layer=1, n_head=4)
    OpenAIGPTLMHeadModel(old).save_pretrained(tmp_path / "gpt1")
    said = edgewise("lift", tmp_path / "gpt1", status=1).stderr
    assert "'openai-gpt', which cannot be lifted: LayerNorm stands on its stream" in said
    assert "supported types: gpt2, llama" in said
    said = edgewise("lift", tmp_path / "gpt1", "--try-family", "gpt2", status=1).stderr
    assert "cannot be read as the family 'gpt2' is" in said
    ArceeForCausalLM(ArceeConfig(**LLAMA)).save_pretrained(tmp_path / "arcee")
    found = edgewise("lift", tmp_path / "arcee", "--try-family", "llama", "--json")
    assert json.loads(found.stdout)["certificate"]["passed"]
    assert (
        "did you mean 'llama'"
        in edgewise("lift", tmp_path / "arcee", "--try-family", "lama", status=1).stderr
    )
