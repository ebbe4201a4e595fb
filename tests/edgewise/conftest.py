"""Tiny random models on disk, prompt pairs of several kinds, and a way to run the command line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from edgewise.cli import cli

WORDS = ["<unk>", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"]


def tiny(family: str, seed: int = 0, **changes: Any) -> Any:
    """Build a random model of two layers and 31 tokens, whose edges all matter a little."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    if family == "gpt2":
        shape = {"vocab_size": 31, "n_positions": 24, "n_embd": 16, "n_layer": 2, "n_head": 2}
        config: Any = GPT2Config(**{**shape, "initializer_range": 0.4, **changes})
        return GPT2LMHeadModel(config).eval()
    shape = {
        "vocab_size": 31,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 24,
    }
    config = LlamaConfig(**{**shape, "initializer_range": 0.4, **changes})
    return LlamaForCausalLM(config).eval()


def save_tokenizer(directory: Path) -> None:
    """Save a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(
        directory
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save a GPT-2, two Llamas of one shape, one that knows words, and one of another family."""
    folder = tmp_path_factory.mktemp("models")
    found = {name: folder / name for name in ("gpt2", "llama", "tuned", "words", "deeper")}
    tiny("gpt2").save_pretrained(found["gpt2"])
    tiny("llama").save_pretrained(found["llama"])
    tiny("llama", seed=1).save_pretrained(found["tuned"])
    tiny("llama", num_hidden_layers=3).save_pretrained(found["deeper"])
    tiny("gpt2").save_pretrained(found["words"])
    save_tokenizer(found["words"])
    return found


def id_rows(count: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """Make prompt pairs as token ids."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        clean = [draw.randrange(31) for _ in range(5)]
        corrupted = [*clean[:2], (clean[2] + 1) % 31, *clean[3:]]
        rows.append(
            {
                "clean_ids": clean,
                "corrupted_ids": corrupted,
                "answer_ids": [3],
                "distractor_ids": [7],
            }
        )
    return rows


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Write a file of prompt pairs as token ids."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in id_rows()))
    return path


Run = Callable[..., Result]


@pytest.fixture
def edgewise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in an empty folder and check its exit status."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, status: int = 0) -> Result:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        assert result.exit_code == status, result.output
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture(scope="session")
def discovered(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discover a small circuit, with its scores, once."""
    folder = tmp_path_factory.mktemp("discovered")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in id_rows()))
    line = ("--model", models["llama"], "--task", folder / "pairs.jsonl", "--method", "eap-ig",
            "--top", 12, "--scores", "-o", folder / "circuit.json")  # fmt: skip
    result = CliRunner().invoke(cli, ["discover", *map(str, line)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def circuit(edgewise: Run, discovered: Path, pairs: Path, tmp_path: Path) -> Path:
    """Copy the circuit and its scores to where the test is, as if it was discovered there."""
    path = tmp_path / "circuit.json"
    path.write_text((discovered / path.name).read_text().replace(str(discovered), str(tmp_path)))
    shutil.copy(discovered / "circuit.scores.safetensors", tmp_path)
    return path
