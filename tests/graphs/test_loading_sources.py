"""Where users have their models: checkpoints of a Trainer, and the hub's cache."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.graphs.errors import ModelNotFound
from edgewise.graphs.load.loading import load
from tests.saved import edit, logits, tiny

# -- checkpoints of a Trainer --------------------------------------------------------------------

BESIDE = ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "scaler.pt")


class Trap:
    """Unpickle into a failure of the test."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a file beside the model was unpickled",)


def train_state(directory: Path) -> None:
    """Put beside a model what a Trainer puts there; to read its pickles fails the test."""
    for name in BESIDE:
        (directory / name).write_bytes(pickle.dumps(Trap()))
    (directory / "trainer_state.json").write_text('{"global_step": 500}')


def test_a_trainer_checkpoint_loads_and_its_pickles_are_not_read(tmp_path: Path) -> None:
    model, checkpoint = tiny(), tmp_path / "checkpoint-500"
    model.save_pretrained(checkpoint)
    train_state(checkpoint)
    for allow in (False, True):
        loaded = load(str(checkpoint), allow_pickle=allow)
        assert torch.equal(logits(loaded.model), logits(model))
    with pytest.raises(pytest.fail.Exception):
        pickle.loads((checkpoint / "training_args.bin").read_bytes())


def test_a_trainer_without_safetensors_leaves_a_pickle(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-500"
    tiny().save_pretrained(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    torch.save(tiny().state_dict(), checkpoint / "pytorch_model.bin")
    train_state(checkpoint)
    with pytest.raises(ModelNotFound, match=r"pytorch_model\.bin only, a pickle"):
        load(str(checkpoint))
    found = load(str(checkpoint), allow_pickle=True).model
    assert torch.equal(logits(found), logits(tiny()))


def test_an_output_directory_of_checkpoints_lists_them(tmp_path: Path) -> None:
    for step in (1000, 90, 500):
        tiny().save_pretrained(tmp_path / f"checkpoint-{step}")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ModelNotFound) as caught:
        load(str(tmp_path))
    assert "checkpoints of a training run (3)" in str(caught.value)
    assert "checkpoint-90, checkpoint-500, checkpoint-1000. Name" in str(caught.value)
    assert str(caught.value).endswith(f"{tmp_path / 'checkpoint-1000'}.")
    tiny(seed=1).save_pretrained(tmp_path)  # what was trained last, beside its checkpoints
    assert torch.equal(logits(load(str(tmp_path)).model), logits(tiny(seed=1)))


# -- the hub, from its cache ---------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the hub unreachable and its cache an own directory; return the cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_without_network_an_unknown_name_is_refused(hub: Path) -> None:
    with pytest.raises(ModelNotFound, match="hub cannot be reached") as caught:
        load("someone/model@main")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelNotFound, match="did you mean 'smollm2-135m'"):
        load("smolm2-135m")


def cached(hub: Path, name: str, commit: str, model: Any) -> Path:
    """Put a model into the hub's cache, as the branch `main`; return its files' directory."""
    home = hub / f"models--{name.replace('/', '--')}"
    model.save_pretrained(home / "snapshots" / commit)
    (home / "refs").mkdir(exist_ok=True)
    (home / "refs" / "main").write_text(commit)
    return home / "snapshots" / commit


OLD, NEW = "c0ffee" + "0" * 34, "beef" + "1" * 36


def test_a_cached_hub_model_loads_offline_with_its_commit(hub: Path) -> None:
    cached(hub, "someone/model", OLD, tiny())
    for reference in ("someone/model", "someone/model@main", f"someone/model@{OLD}"):
        loaded = load(reference)
        assert (loaded.name, loaded.revision) == ("someone/model", OLD)
    assert torch.equal(logits(loaded.model), logits(tiny()))


def test_a_commit_names_one_state_of_a_model(hub: Path) -> None:
    cached(hub, "someone/model", OLD, tiny(seed=1))
    cached(hub, "someone/model", NEW, tiny(seed=2))
    old, new = load("someone/model", revision=OLD), load("someone/model")
    assert (old.revision, new.revision) == (OLD, NEW)
    assert torch.equal(logits(old.model), logits(tiny(seed=1)))
    assert torch.equal(logits(new.model), logits(tiny(seed=2)))
    assert old.provenance["revision"] == OLD
    assert old.weights_sha256 != new.weights_sha256
    with pytest.raises(ModelNotFound, match="hub cannot be reached"):
        load("someone/model@v1")


@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")  # PEFT's making of an adapter
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_an_adapters_base_is_taken_from_the_hub_at_its_revision(hub: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    cached(hub, "someone/model", OLD, tiny(seed=1))
    cached(hub, "someone/model", NEW, tiny(seed=2))
    wrapped = peft.get_peft_model(tiny(seed=1), peft.LoraConfig(target_modules=["q_proj"])).eval()
    wrapped.save_pretrained(tmp_path / "lora", save_embedding_layers=False)
    edit(
        tmp_path / "lora" / "adapter_config.json",
        base_model_name_or_path="someone/model",
        revision=OLD,
    )
    loaded = load(str(tmp_path / "lora"))
    torch.testing.assert_close(logits(loaded.model), logits(tiny(seed=1)))
    assert loaded.provenance["adapter"]["base_revision"] == OLD


def test_the_environment_alone_makes_it_offline(tmp_path: Path) -> None:
    cached(tmp_path / "hub", "someone/model", OLD, tiny())
    code = """
from edgewise.workflow import open_model
session = open_model("someone/model")
print(session.model_block["name"], session.model_block["revision"], session.certificate.passed)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.split() == ["someone/model", OLD, "True"], done.stderr
