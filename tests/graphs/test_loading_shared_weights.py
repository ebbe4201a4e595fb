"""Adapters that touch weights several modules share, or hold whole tensors: PEFT's own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.graphs.errors import ModelNotFound
from edgewise.graphs.load import adapters
from edgewise.graphs.load.loading import load
from tests.saved import logits, tiny

peft = pytest.importorskip("peft")

pytestmark = [  # PEFT's own remarks when a test makes an adapter
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]


def make(home: Path, family: str = "llama", *, tied: bool = True, **settings: Any) -> Any:
    """Save a base and a LoRA adapter whose weights are all random; return PEFT's own model."""
    from transformers import AutoModelForCausalLM

    small = tiny(family, tied=tied)
    with torch.no_grad():
        for parameter in small.parameters():
            if parameter.dim() > 1:
                parameter.mul_(10)
    small.save_pretrained(home / "base")
    base = AutoModelForCausalLM.from_pretrained(home / "base")
    wrapped = peft.get_peft_model(base, peft.LoraConfig(**{"r": 2, **settings})).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    wrapped.save_pretrained(home / "lora")
    return wrapped


def check(home: Path, wrapped: Any) -> Any:
    """Load the adapter and compare with PEFT's; return the loaded model."""
    loaded = load(str(home / "lora"), device="cpu")
    torch.testing.assert_close(logits(loaded.model), logits(wrapped), atol=1e-5, rtol=1e-5)
    assert (logits(loaded.model) - logits(load(str(home / "base")).model)).abs().max() > 1e-2
    return loaded


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]},
    ],
    ids=lambda settings: "-".join(map(str, settings)) + str(list(settings.values())[-1]),
)
def test_an_adapter_of_the_embeddings_gives_pefts_logits(
    tmp_path: Path, tied: bool, settings: dict[str, Any]
) -> None:
    model = check(tmp_path, make(tmp_path, tied=tied, **settings)).model
    embedding, unembedding = model.model.embed_tokens.weight, model.lm_head.weight
    assert model.config.tie_word_embeddings == (embedding is unembedding)


def test_gpt2s_tied_embedding_gives_pefts_logits(tmp_path: Path) -> None:
    model = check(tmp_path, make(tmp_path, "gpt2", target_modules=["wte"])).model
    assert model.lm_head.weight is not model.transformer.wte.weight


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["embed_tokens"]}],
)
def test_embeddings_that_are_to_stay_tied(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = {"target_modules": ["q_proj"], "ensure_weight_tying": True, **settings}
    try:
        wrapped = make(tmp_path, **settings)
    except TypeError:
        pytest.skip("this PEFT knows no ensure_weight_tying")
    check(tmp_path, wrapped)


def test_an_untied_merge_can_be_saved_and_loaded_again(tmp_path: Path) -> None:
    loaded = check(tmp_path, make(tmp_path, target_modules=["embed_tokens"]))
    loaded.model.save_pretrained(tmp_path / "merged")
    again = load(str(tmp_path / "merged"))
    assert torch.equal(logits(again.model), logits(loaded.model))
    assert again.weights_sha256 == loaded.weights_sha256


def test_an_adapter_elsewhere_leaves_the_embeddings_tied(tmp_path: Path) -> None:
    model = check(tmp_path, make(tmp_path, target_modules=["q_proj"])).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings


def test_replicated_layers_have_adapters_of_their_own(tmp_path: Path) -> None:
    replicas = [[0, 2], [1, 2]]
    wrapped = make(tmp_path, target_modules=["q_proj"], layer_replication=replicas)
    model = check(tmp_path, wrapped).model
    assert len(model.model.layers) == 3


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "layer_replication": [[0, 2], [1, 2]]},
    ],
)
def test_a_merge_that_computes_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    make(tmp_path, **settings)
    monkeypatch.setattr(adapters, "_untie", lambda wrapped, own: set())
    with pytest.raises(ModelNotFound, match=r"merged model's logits differ .* PEFT's unmerged"):
        load(str(tmp_path / "lora"))


# -- what a file holds ---------------------------------------------------------------------------


def pickle(directory: Path, change: Any) -> None:
    """Keep an adapter's tensors in a pickle, after a change to their names."""
    from safetensors.torch import load_file

    file = directory / "adapter_model.safetensors"
    tensors = change(load_file(file))
    file.unlink()
    torch.save(tensors, directory / "adapter_model.bin")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: {k: v for k, v in t.items() if "layers.1" not in k}, "it lacks 2 tensors"),
        (lambda t: {k.replace("model.model.", "model.foo."): v for k, v in t.items()}, "lacks 4"),
        (lambda t: {**t, "foreign": torch.zeros(1)}, "no place for 1 tensors, such as foreign"),
    ],
)
def test_a_pickled_adapter_must_be_complete_too(tmp_path: Path, change: Any, reason: str) -> None:
    make(tmp_path, target_modules=["q_proj"])
    pickle(tmp_path / "lora", change)
    with pytest.raises(ModelNotFound, match=reason):
        load(str(tmp_path / "lora"), allow_pickle=True)


def test_a_pickled_adapter_that_runs_code_is_refused(tmp_path: Path) -> None:
    make(tmp_path, target_modules=["q_proj"])
    pickle(tmp_path / "lora", lambda tensors: {**tensors, "more": Path("x")})
    with pytest.raises(ModelNotFound, match=r"asks for pathlib\.\w+; .* never run") as caught:
        load(str(tmp_path / "lora"), allow_pickle=True)
    assert "weights_only" not in str(caught.value)


def test_a_whole_module_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make(tmp_path, target_modules=["q_proj"], modules_to_save=["lm_head"])
    file = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if "lm_head" not in name}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelNotFound, match=r"cannot be merged into .*lm_head"):
        load(str(tmp_path / "lora"))


def test_a_changed_rank_is_no_reason_to_trust_a_file(tmp_path: Path) -> None:
    make(tmp_path, target_modules=["q_proj"])
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "r": 3}))
    with pytest.raises(ModelNotFound, match="cannot be merged"):
        load(str(tmp_path / "lora"))
