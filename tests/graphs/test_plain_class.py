"""Transformers without norms as directories: saved, loaded, certified and searched as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edgewise.cli import cli
from edgewise.discovery.registry import get_method
from edgewise.graphs.lift.classes.plain import MODEL_TYPE, classes
from edgewise.graphs.lift.lifting import describe, families
from edgewise.graphs.load.loading import from_module, load
from edgewise.patching.run.certificate import certify
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_pairs

SIZES = {
    "vocab_size": 31, "outputs": 31, "hidden_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "head_dim": 5, "intermediate_size": 9, "max_position_embeddings": 24,
}  # fmt: skip


def plain(seed: int = 0, **settings: Any) -> Any:
    config, model = classes()
    torch.manual_seed(seed)
    made = model(config(**{**SIZES, **settings})).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.normal_(0, 0.5)
    return made


@pytest.mark.parametrize("settings", [{}, {"causal": False}, {"outputs": 7}, {"head_dim": 3}])
def test_saved_and_loaded_it_is_certified(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = plain(**settings)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded.model) is classes()[1]
    lifted = describe(loaded.model)
    certificate = certify(lifted).require()
    assert certificate.compared
    assert lifted.family == "plain"
    ids = torch.arange(1, 7)[None]
    assert torch.equal(loaded.model(ids).logits, model(ids).logits)
    assert loaded.model(ids).logits.shape[-1] == settings.get("outputs", 31)


def test_what_stands_in_the_padding_changes_nothing() -> None:
    for causal in (True, False):
        model = plain(causal=causal).double()
        ids = torch.tensor([[3, 4, 5, 6, 7]])
        padded = torch.tensor([[3, 4, 5, 6, 7, 1, 2]])
        mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
        found = model(padded, attention_mask=mask).logits[:, :5]
        torch.testing.assert_close(found, model(ids).logits)


@pytest.mark.parametrize("causal", [True, False])
def test_exact_effects_are_of_whole_runs(causal: bool) -> None:
    model = describe(plain(causal=causal).double())
    runner = Runner.create(model, tiny_pairs(lengths=(5, 4)), metric="logit_diff")
    exact = get_method("exact")(runner).scores.values
    reads = model.graph.reads
    full = runner.mask_losses(reads[None])[0]
    for row, column in np.argwhere(reads)[::7].tolist():
        mask = reads.copy()
        mask[row, column] = False
        assert exact[row, column] == pytest.approx(runner.mask_losses(mask[None])[0] - full)


def test_both_engines_score_it_alike() -> None:
    pytest.importorskip("jax")
    scores = [
        get_method("eap-ig")(
            Runner.create(describe(plain()), tiny_pairs(), metric="logit_diff", engine=engine)
        ).scores.values
        for engine in ("torch", "jax")
    ]
    largest = np.nanmax(np.abs(scores[0]))
    np.testing.assert_allclose(scores[0], scores[1], rtol=0, atol=1e-5 * largest)


def test_a_live_one_is_taken_and_it_is_no_type_of_transformers() -> None:
    assert from_module(plain()).model.config.model_type == MODEL_TYPE
    assert MODEL_TYPE not in families()


def test_commands_take_the_directory(tmp_path: Path) -> None:
    plain().save_pretrained(tmp_path / "model")
    pair = {"clean": [1, 2, 3], "corrupted": [1, 4, 3], "answers": [5], "distractors": [6]}
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps(pair) + "\n")
    arguments = [
        "discover", "--model", str(tmp_path / "model"), "--task", str(pairs), "--method", "acdc",
        "--metric", "logit_diff", "--test", "0", "-o", str(tmp_path / "found.json"),
    ]  # fmt: skip
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 0, found.output
    assert json.loads((tmp_path / "found.json").read_text())["graph"]


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    plain().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    told = json.loads(config.read_text())
    config.write_text(json.dumps({**told, "hidden_size": 13}))
    found = CliRunner().invoke(cli, ["lift", str(tmp_path)])
    assert found.exit_code == 1
    assert "Traceback" not in found.output
    assert "hidden_size" in found.output or "does not match" in found.output
