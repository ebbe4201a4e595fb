"""Loading: what is loaded equals what was saved; everything else is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgewise.graphs.errors import CertificateFailed, ModelNotFound, UnknownName, UnsupportedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load import loading, references
from edgewise.graphs.load.loading import from_module, load, load_tokenizer
from edgewise.patching.run.certificate import certify
from tests.engine import tiny_model
from tests.saved import edit, logits, rewrite, save_tokenizer, tiny


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    tiny().save_pretrained(path)
    return path


# -- what is loaded is what was saved ------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_directory_gives_the_saved_models_logits(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    model.save_pretrained(tmp_path)
    loaded = load(str(tmp_path), device="cpu")
    torch.testing.assert_close(logits(loaded.model), logits(model))
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert (loaded.name, loaded.revision, loaded.dtype) == (str(tmp_path), None, "float32")
    assert loaded.tokenizer is None


def test_shards_give_the_same_model_and_hash(tmp_path: Path) -> None:
    model = tiny(tied=False)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size=1000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    whole, shards = load(str(tmp_path / "whole")), load(str(tmp_path / "shards"))
    assert torch.equal(logits(whole.model), logits(shards.model))
    assert whole.weights_sha256 == shards.weights_sha256


def test_the_hash_is_of_the_values_and_not_of_how_they_are_held(saved: Path) -> None:
    loaded = load(str(saved))
    assert load(str(saved), dtype="float64").weights_sha256 == loaded.weights_sha256
    assert from_module(tiny()).weights_sha256 == loaded.weights_sha256
    assert from_module(tiny(seed=1)).weights_sha256 != loaded.weights_sha256
    changed = tiny()
    changed.model.layers[1].mlp.down_proj.weight.data[3, 2] += 1e-3
    assert from_module(changed).weights_sha256 != loaded.weights_sha256


def test_the_hash_ignores_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = from_module(tiny()).weights_sha256
    monkeypatch.setattr("edgewise.graphs.load.weights._CHUNK", 7)
    assert from_module(tiny()).weights_sha256 == whole


def test_dtype_is_the_one_asked_for(saved: Path) -> None:
    for name in loading.DTYPES:
        model = load(str(saved), dtype=name).model
        assert {p.dtype for p in model.parameters()} == {getattr(torch, name)}
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32  # rounding it moves positions
        assert model.lm_head.weight is model.model.embed_tokens.weight


def test_float32_widens_what_was_saved_in_bfloat16(tmp_path: Path) -> None:
    tiny().bfloat16().save_pretrained(tmp_path)
    half, wide = load(str(tmp_path), dtype="bfloat16"), load(str(tmp_path), dtype="float32")
    assert {p.dtype for p in wide.model.parameters()} == {torch.float32}
    for narrow, widened in zip(half.model.parameters(), wide.model.parameters(), strict=True):
        assert torch.equal(narrow.float(), widened)
    assert half.weights_sha256 == wide.weights_sha256


def test_the_tokenizer_is_read_only_when_used(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tokenizer(saved)
    read: list[str] = []
    real = loading._read_tokenizer
    monkeypatch.setattr(
        loading, "_read_tokenizer", lambda source: read.append(source.name) or real(source)
    )
    loaded = load(str(saved))
    assert read == []
    assert loaded.tokenizer("b a").input_ids == [2, 1]
    assert loaded.tokenizer is loaded.tokenizer
    assert read == [str(saved)]
    assert load_tokenizer(str(saved))("a").input_ids == [1]


def test_what_is_loaded_in_inference_mode_lets_gradients_through(saved: Path) -> None:
    with torch.inference_mode():
        model = load(str(saved)).model
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    certify(describe(model)).require()


def test_loading_writes_nothing_to_the_terminal(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(str(saved))
    assert capfd.readouterr() == ("", "")


def test_a_soft_cap_is_not_dropped_by_the_choice_of_attention(saved: Path) -> None:
    assert loading._attention({"attn_logit_softcapping": 50.0}) == "eager"
    assert loading._attention({}) is None  # transformers chooses the fused one if it can
    assert load(str(saved)).model.config._attn_implementation == "sdpa"


# -- live modules --------------------------------------------------------------------------------


def test_a_live_module_is_taken_as_it_is() -> None:
    model = tiny()
    loaded = from_module(model, tokenizer="any", name="mine")
    assert loaded.model is model
    assert all(p.requires_grad for p in model.parameters())
    assert (loaded.name, loaded.tokenizer, loaded.path) == ("mine", "any", None)


def test_a_module_that_is_no_causal_model_is_refused() -> None:
    with pytest.raises(ModelNotFound, match=r"Linear; accepted: a causal"):
        from_module(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ModelNotFound, match=r"LlamaModel; accepted"):
        from_module(tiny().model)


def test_a_quantised_module_is_refused() -> None:
    model = tiny()
    layer = model.model.layers[0].mlp
    layer.up_proj.weight = torch.nn.Parameter(layer.up_proj.weight.to(torch.float8_e4m3fn), False)
    with pytest.raises(ModelNotFound, match=r"quantised weights \(float8_e4m3fn\)"):
        from_module(model)
    model = tiny()
    model.config.quantization_config = {"quant_method": "awq"}
    with pytest.raises(ModelNotFound, match=r"quantised weights \(awq\)"):
        from_module(model)


def test_a_module_in_training_mode_is_refused_and_left_so() -> None:
    model = tiny().train()
    with pytest.raises(ModelNotFound, match=r"call model\.eval\(\)"):
        from_module(model)
    assert model.training


# -- refusals ------------------------------------------------------------------------------------


def test_pickled_weights_need_permission(saved: Path) -> None:
    model = tiny()
    torch.save(model.state_dict(), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"pytorch_model\.bin only, a pickle.*`allow_pickle`"):
        load(str(saved))
    assert torch.equal(logits(load(str(saved), allow_pickle=True).model), logits(model))


def test_a_pickle_that_runs_code_is_refused_even_with_permission(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Path("x")}, saved / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"asks for pathlib\.\w+; .* never run") as caught:
        load(str(saved), allow_pickle=True)
    assert "weights_only" not in str(caught.value)  # torch advises to run the code


def test_a_pickle_must_be_complete_too(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    held = tiny().state_dict()
    del held["model.layers.1.mlp.up_proj.weight"]
    torch.save(held, saved / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"1 missing keys \(model\.layers\.1\.mlp\.up_proj"):
        load(str(saved), allow_pickle=True)


def test_weights_that_are_not_finite_are_named(saved: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")

    rewrite(saved / "model.safetensors", spoil)
    certificate = certify(describe(load(str(saved)).model))
    assert certificate.not_finite == ("model.layers.1.mlp.up_proj.weight",)
    with pytest.raises(CertificateFailed, match=r"^1 of the model's tensors .*1\.mlp\.up_proj"):
        certificate.require()


def test_a_missing_tensor_is_refused(saved: Path) -> None:
    rewrite(saved / "model.safetensors", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelNotFound, match=r"1 missing keys \(model\.layers\.1\.mlp\.up_proj"):
        load(str(saved))


def test_a_foreign_tensor_is_refused(saved: Path) -> None:
    rewrite(
        saved / "model.safetensors",
        lambda t: t.update({"model.layers.0.mlp.gate_proj.bias": torch.zeros(12)}),
    )
    with pytest.raises(ModelNotFound, match=r"1 unexpected keys \(model\.layers\.0\.mlp\.gate"):
        load(str(saved))


def test_a_tensor_of_another_shape_is_refused(saved: Path) -> None:
    edit(saved / "config.json", intermediate_size=16)
    told = r"6 mismatched keys \(model\.layers\.0\.mlp\.down_proj\.weight \[8, 12\] for \[8, 16\], "
    with pytest.raises(ModelNotFound, match=told):
        load(str(saved))


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    tiny(tied=False).save_pretrained(tmp_path, max_shard_size=1000)
    min(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(ModelNotFound, match="cannot be loaded from"):
        load(str(tmp_path))


@pytest.mark.parametrize("size", [0, 5, 400])
def test_a_cut_safetensors_file_is_refused(saved: Path, size: int) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelNotFound, match="cannot be loaded from") as caught:
        load(str(saved))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"'])
def test_a_damaged_config_is_refused(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text)
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        load(str(saved))


def test_models_without_a_language_head_are_refused(saved: Path) -> None:
    edit(saved / "config.json", architectures=["BertModel"], model_type="bert")
    with pytest.raises(ModelNotFound, match=r"is no causal language model.*BertModel"):
        load(str(saved))


def test_a_models_own_code_is_never_run(saved: Path) -> None:
    (saved / "evil.py").write_text("raise SystemExit('ran')")
    edit(
        saved / "config.json",
        model_type="own",
        architectures=["Own"],
        auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"},
    )
    with pytest.raises(ModelNotFound, match=r"brings its own code \(auto_map\), .* never run.*Own"):
        load(str(saved))
    edit(saved / "config.json", architectures=None)
    with pytest.raises(ModelNotFound, match="brings its own code"):
        load(str(saved))
    edit(saved / "config.json", model_type="llama")
    with pytest.raises(ModelNotFound, match="brings its own code"):
        load(str(saved))


def test_transformers_own_class_is_taken_where_a_model_brings_code_too(saved: Path) -> None:
    (saved / "evil.py").write_text("raise SystemExit('ran')")
    edit(saved / "config.json", auto_map={"AutoModelForCausalLM": "evil.M"})
    model = load(str(saved)).model
    assert torch.equal(logits(model), logits(tiny()))
    assert certify(describe(model)).passed


NAMES = {
    "mpt": "MPTForCausalLM", "falcon": "RWForCausalLM", "llama": "LLaMAForCausalLM",
    "gpt2": "GPT2Model", "gpt-neox": "GPTNeoXModel",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("own_code", [True, False])
def test_the_type_decides_and_not_the_architectures_name(
    name: str, own_code: bool, tmp_path: Path
) -> None:
    model = tiny_model(name, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    changes: dict[str, object] = {"architectures": [NAMES[name]]}
    if own_code and not NAMES[name].endswith("Model"):
        changes["auto_map"] = {"AutoModelForCausalLM": "evil.M"}
    edit(tmp_path / "config.json", **changes)
    assert torch.equal(logits(load(tmp_path).model), logits(model))


def test_a_body_saved_alone_is_whole_where_its_head_is_tied(tmp_path: Path) -> None:
    model = tiny("gpt2")
    model.transformer.save_pretrained(tmp_path)
    assert torch.equal(logits(load(tmp_path).model), logits(model))
    tiny(tied=False).model.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFound, match=r"1 missing keys \(lm_head\.weight\)"):
        load(tmp_path)


def test_an_unknown_type_is_refused_before_weights_are_read(saved: Path) -> None:
    edit(saved / "config.json", model_type="own", architectures=None)
    with pytest.raises(UnsupportedModel, match="of type 'own', which cannot be lifted"):
        load(str(saved))


def test_quantised_weights_are_refused(saved: Path) -> None:
    edit(saved / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(ModelNotFound, match=r"quantised weights \(gptq\)"):
        load(str(saved))


def test_a_path_must_exist_and_hold_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="does not exist on this machine"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(ModelNotFound, match="it holds nothing"):
        load(str(tmp_path))
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ModelNotFound, match=r"name it: .*a\.gguf"):
        load(str(tmp_path))
    with pytest.raises(ModelNotFound, match=r"not a \.gguf file"):
        (tmp_path / "weights.safetensors").touch()
        load(str(tmp_path / "weights.safetensors"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(ModelNotFound, match="has no weights in safetensors"):
        load(str(tmp_path))


@pytest.mark.parametrize("reference", ["", "  ", "a b", "gpt2@", "@main", "x/y/z", "file.gguf"])
def test_what_cannot_be_a_name_is_refused_without_the_network(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(references, "_snapshot", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(ModelNotFound, match="ccepted: a Hugging Face name"):
        load(reference)


def test_a_revision_is_for_hub_names_only(saved: Path) -> None:
    with pytest.raises(ModelNotFound, match="applies to Hugging Face names only"):
        load(str(saved), revision="main")
    with pytest.raises(ModelNotFound, match="revision 'main' applies to Hugging Face names only"):
        load(f"{saved}@main")
    with pytest.raises(ModelNotFound, match="without a revision"):
        load("smollm2-135m@main")
    with pytest.raises(ModelNotFound, match="give one of them"):
        load("org/model@a", revision="b")


def test_dtype_and_device_are_closed_lists(saved: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'float32'"):
        load(str(saved), dtype="float23")
    with pytest.raises(UnknownName, match="unknown device 'gpu'"):
        load(str(saved), device="gpu")
    with pytest.raises(ModelNotFound, match="'cuda:99' is not on this machine"):
        load(str(saved), device="cuda:99")


def test_a_model_without_tokenizer_says_so(saved: Path) -> None:
    with pytest.raises(ModelNotFound, match="without a tokenizer"):
        load_tokenizer(str(saved))


def test_a_damaged_tokenizer_is_refused(saved: Path) -> None:
    save_tokenizer(saved)
    (saved / "tokenizer.json").write_text("{")
    with pytest.raises(ModelNotFound, match=r"tokenizer of .* cannot be loaded"):
        load_tokenizer(str(saved))
