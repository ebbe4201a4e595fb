"""Text bodies of multimodal models: whole from any layout, and exact on text."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgewise.graphs.errors import EdgewiseError, ModelNotFound, PromptError, UnsupportedModel
from edgewise.graphs.lift.lifting import describe
from edgewise.graphs.load import loading
from edgewise.graphs.load.loading import from_module, load
from edgewise.patching.prompts.pairs import Pair, PromptPairs
from edgewise.patching.run.certificate import generated_pairs
from edgewise.session import make_runner, open_model, open_task, open_vocabulary
from tests.saved import edit, rewrite, save_tokenizer
from tests.wrappers import QFORMER, SIGLIP, WRAPPERS, llama, on_text, tiny_wrapper

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])


def saved(name: str, path: Path, layout: str = "old") -> Any:
    """Write a wrapper as transformers does, under old names, or under the names it has now."""
    model = tiny_wrapper(name)
    model.save_pretrained(path)
    if layout == "new":
        tied = model.lm_head.weight is model.get_input_embeddings().weight
        held = {k: v.clone() for k, v in model.state_dict().items()}
        if tied:
            held = {k: v for k, v in held.items() if k != "lm_head.weight"}
        save_file(held, path / "model.safetensors", metadata={"format": "pt"})
    return model


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_text_body_is_exact_live_and_from_a_directory(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path)
    live, read = open_model(model), open_model(tmp_path)
    wanted = on_text(model, IDS)
    assert torch.equal(on_text(live.loaded.model, IDS), wanted)
    aligned = copy.deepcopy(read.loaded.model)  # in a file, where products may round otherwise
    assert torch.equal(on_text(aligned, IDS), wanted)
    assert live.loaded.weights_sha256 == read.loaded.weights_sha256
    title = f"{type(model).__name__} ({model.config.model_type})"
    for session in (live, read):
        assert session.lifted.variants["text body of"] == title
        assert dict(session.model_block)["text_body_of"] == title
        assert session.lifted.family == describe(model).family


@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_vl", "internvl", "idefics3"])
def test_names_old_and_new_give_the_same_model(name: str, tmp_path: Path) -> None:
    model = saved(name, tmp_path / "new", "new")
    saved(name, tmp_path / "old")
    new, old = load(tmp_path / "new"), load(tmp_path / "old")
    assert torch.equal(on_text(new.model, IDS), on_text(model, IDS))
    assert new.weights_sha256 == old.weights_sha256
    names = [set(load_file(tmp_path / kind / "model.safetensors")) for kind in ("new", "old")]
    assert (names[0] == names[1]) == (name == "idefics3")


def test_the_body_has_the_hash_of_the_same_causal_model(tmp_path: Path) -> None:
    from transformers import Gemma3ForCausalLM

    model = tiny_wrapper("gemma3")
    alone = Gemma3ForCausalLM(model.config.text_config).eval()
    alone.model.load_state_dict(model.model.language_model.state_dict())
    assert from_module(alone).weights_sha256 == from_module(model).weights_sha256
    assert torch.equal(on_text(alone, IDS), on_text(model, IDS))


def test_parts_for_images_are_not_read(tmp_path: Path) -> None:
    saved("llava", tmp_path)
    whole: Any = load(tmp_path).model
    assert sum(p.numel() for p in whole.whole.model.vision_tower.parameters()) == 0
    assert not [
        n for n, _ in whole.whole.named_parameters() if "language" not in n and "lm_" not in n
    ]
    assert type(whole.whole).__name__ == "LlavaForConditionalGeneration"
    pickle.dumps(whole.whole.__class__)
    copy.deepcopy(whole)


@pytest.mark.parametrize("name", ["gemma3", "llava", "qwen2_vl"])
@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_missing_or_foreign_tensor_of_the_text_is_refused(
    name: str, layout: str, tmp_path: Path
) -> None:
    saved(name, tmp_path, layout)
    file = tmp_path / "model.safetensors"
    at = next(key for key in load_file(file) if key.endswith("layers.1.mlp.up_proj.weight"))
    kept = load_file(file)[at]
    rewrite(file, lambda t: t.pop(at))
    with pytest.raises(ModelNotFound, match=r"1 missing keys \(.*layers\.1\.mlp\.up_proj"):
        load(tmp_path)
    rewrite(file, lambda t: t.update({at: kept, at.replace("weight", "bias"): kept[:, 0].clone()}))
    with pytest.raises(ModelNotFound, match=r"1 unexpected keys \(.*layers\.1\.mlp\.up_proj"):
        load(tmp_path)


def test_a_body_without_its_head_is_refused(tmp_path: Path) -> None:
    model = saved("llava", tmp_path)
    rewrite(tmp_path / "model.safetensors", lambda t: t.pop("language_model.lm_head.weight"))
    with pytest.raises(ModelNotFound, match=r"1 missing keys \(lm_head\.weight\)"):
        load(tmp_path)
    for part in (model.model, model.model.language_model):
        with pytest.raises(ModelNotFound, match="accepted: a causal language model"):
            from_module(part)
        with pytest.raises(UnsupportedModel):
            describe(part)


@pytest.mark.parametrize("dtype", loading.DTYPES)
def test_a_text_body_is_read_in_each_type(dtype: str, tmp_path: Path) -> None:
    saved("gemma3", tmp_path)
    session = open_model(tmp_path, dtype=dtype)
    assert {p.dtype for p in session.loaded.model.parameters()} == {getattr(torch, dtype)}
    assert session.lifted.dtype == getattr(torch, dtype)


def test_shards_of_a_multimodal_model(tmp_path: Path) -> None:
    model = tiny_wrapper("mistral3")
    model.save_pretrained(tmp_path, max_shard_size=5000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert torch.equal(on_text(load(tmp_path).model, IDS), on_text(model, IDS))


def test_another_text_body_is_refused_by_its_type(tmp_path: Path) -> None:
    saved("llava", tmp_path)
    value = json.loads((tmp_path / "config.json").read_text())
    value["text_config"] = {"model_type": "bert", "vocab_size": 40, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(value))
    with pytest.raises(EdgewiseError, match="type 'llava', whose text body is of type 'bert'"):
        load(tmp_path)


def test_a_text_body_is_watched_and_left_as_it_was() -> None:
    model = tiny_wrapper("gemma3")
    names = [(n, {k: len(v) for k, v in vars(m).items() if k.endswith("hooks")}, m.training)
             for n, m in model.named_modules()]  # fmt: skip
    session = open_model(model)
    before = session.lifted
    assert session.lifted is before
    found = [(n, {k: len(v) for k, v in vars(m).items() if k.endswith("hooks")}, m.training)
             for n, m in model.named_modules()]  # fmt: skip
    assert found == names
    pickle.dumps(model)
    model.model.language_model.layers[0].mlp.up_proj.weight.data.mul_(2)
    assert session.lifted is not before
    model.train()
    with pytest.raises(EdgewiseError, match="training mode"):
        open_model(model)


def test_what_is_wrong_with_a_text_body_is_named_by_its_path_in_the_whole() -> None:
    model = tiny_wrapper("llava")
    model.model.language_model.layers[1].mlp = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match=r"module model\.language_model\.layers\.1\.mlp of"):
        open_model(model)
    model = tiny_wrapper("llava")
    model.model.language_model.layers[1].mlp.train()
    with pytest.raises(UnsupportedModel, match=r"^model\.language_model\.layers\.1\.mlp of the"):
        open_model(model)
    model = tiny_wrapper("llava")
    model.model.register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedModel, match="forward hooks on model,"):
        open_model(model)
    model = tiny_wrapper("llava")
    model.model.vision_tower.register_forward_hook(lambda *_: None)  # text does not pass there
    open_model(model)


def test_the_vocabulary_is_known_without_the_weights(tmp_path: Path) -> None:
    saved("llava", tmp_path)
    save_tokenizer(tmp_path)
    assert open_vocabulary(str(tmp_path))[1] == 40


def test_a_size_beyond_the_weights_is_refused_in_the_text_too(tmp_path: Path) -> None:
    saved("llava", tmp_path)
    for key, value in (("num_hidden_layers", 10**7), ("hidden_size", 10**6)):
        config = json.loads((tmp_path / "config.json").read_text())
        edit(tmp_path / "config.json", text_config={**config["text_config"], key: value})
        with pytest.raises(ModelNotFound, match=r"accepted: a configuration of exactly|cannot be"):
            load(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config))


def test_a_whole_that_asks_for_an_image_is_run_by_its_causal_model(tmp_path: Path) -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    torch.manual_seed(0)
    text = {"model_type": "opt", "vocab_size": 40, "hidden_size": 16, "ffn_dim": 20,
            "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32,
            "word_embed_proj_dim": 16}  # fmt: skip
    config = Blip2Config(text_config=text, vision_config=SIGLIP, qformer_config=QFORMER)
    model = Blip2ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    session = open_model(tmp_path)
    assert torch.equal(on_text(session.loaded.model, IDS), on_text(model.language_model, IDS))
    assert session.loaded.provenance["text_body_of"] == "Blip2ForConditionalGeneration (blip-2)"


def test_tokens_that_stand_for_sound_are_none_of_the_certificates() -> None:
    body = from_module(tiny_wrapper("granite_speech")).model
    assert body.placeholders == {39}
    pairs = generated_pairs(describe(body)).pairs
    assert 39 not in {token for pair in pairs for token in (*pair.clean, *pair.corrupted)}


def test_prompts_that_hold_a_token_of_sound_are_refused_by_their_line(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_wrapper("granite_speech").save_pretrained(folder)
    session, path = open_model(folder), tmp_path / "prompts.jsonl"
    good = {"clean_ids": [3, 1, 4], "corrupted_ids": [3, 2, 4], "answer_ids": [5]}
    lines = [good, {**good, "corrupted_ids": [3, 39, 4]}, {**good, "answer_ids": [39]}]
    for wrong in lines[1:]:
        path.write_text(f"{json.dumps(good)}\n{json.dumps(wrong)}\n")
        for model in (session, str(folder)):
            with pytest.raises(PromptError, match=r"line 2: '.*' holds the token 39, in whose pl"):
                open_task(model, str(path))
    pairs = PromptPairs((Pair((3, 39, 4), (3, 1, 4), (5,)),))
    with pytest.raises(PromptError, match="pair 1 of 'pairs' holds the token 39, in whose place"):
        make_runner(session, pairs, metric="nll")
    path.write_text(json.dumps(good) + "\n")
    assert len(open_task(session, str(path))[0]) == 1
    alone = PromptPairs((Pair((38, 38), None, (5,)),))
    assert session.certify(alone).passed  # compared with other tokens of text


def test_a_library_that_only_images_need_is_not_needed(tmp_path: Path) -> None:
    from importlib.util import find_spec

    from transformers import FastVlmConfig, Qwen2ForCausalLM

    if find_spec("timm") is not None:
        pytest.skip("the library is here")
    config = FastVlmConfig(text_config=llama("qwen2"), image_token_id=39)
    torch.manual_seed(0)
    alone = Qwen2ForCausalLM(config.text_config).eval()
    held = {
        name.replace("model.", "model.language_model."): tensor.clone()
        for name, tensor in alone.state_dict().items()
    }
    held["model.vision_tower.timm_model.stem.weight"] = torch.zeros(2)
    config.architectures = ["FastVlmForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    session = open_model(tmp_path)
    assert torch.equal(on_text(session.loaded.model, IDS), on_text(alone, IDS))
    assert session.loaded.weights_sha256 == from_module(alone).weights_sha256


@pytest.mark.parametrize(
    ("name", "kind"),
    [("llava", "LlamaForCausalLM"), ("gemma3", "Gemma3ForCausalLM"),
     ("mistral3", "MistralForCausalLM"), ("smolvlm", "LlamaForCausalLM")],
)  # fmt: skip
@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_text_model_filled_with_random_numbers_is_refused(
    name: str, kind: str, layout: str, tmp_path: Path
) -> None:
    import transformers

    whole = saved(name, tmp_path, layout)
    transformers.logging.set_verbosity_error()
    text = transformers.AutoConfig.from_pretrained(tmp_path).text_config
    model = getattr(transformers, kind).from_pretrained(tmp_path, config=text).eval()
    if torch.equal(on_text(model, IDS), on_text(whole, IDS)):  # it found its tensors after all
        open_model(model)
        return
    with pytest.raises(ModelNotFound, match="has none of its weights: transformers fills a class"):
        open_model(model)
    model.model.load_state_dict(whole.model.get_decoder().state_dict())
    open_model(model)
    model.model.embed_tokens.weight.data.add_(1)
    model.config.name_or_path = ""
    open_model(model)


def test_a_model_without_one_head_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    from edgewise.graphs.load.classes import text_alone

    class TwoForConditionalGeneration(LlavaForConditionalGeneration):
        """A whole model whose head nobody names."""

        def get_output_embeddings(self) -> None:
            return None

    _, options = WRAPPERS["llava"]
    config = LlavaConfig(**{**options, "text_config": LlamaConfig(**llama())})
    with (
        torch.device("meta"),
        pytest.raises(ModelNotFound, match="no text body with a head of its"),
    ):
        text_alone(TwoForConditionalGeneration)(config)
