"""GGUF metadata: what transformers takes over is accepted, what it loses is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgewise.graphs.errors import ModelNotFound
from edgewise.graphs.load.gguf_metadata import read_header, refuse_lost_metadata

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

SIZES = {
    "context_length": 4096,
    "block_count": 12,
    "embedding_length": 32,
    "feed_forward_length": 48,
    "attention.head_count": 4,
    "vocab_size": 50,
}
RMS = {"attention.layer_norm_rms_epsilon": 1e-5}
NORM = {"attention.layer_norm_epsilon": 1e-5}
LLAMA = {**RMS, "attention.head_count_kv": 2, "rope.dimension_count": 8, "rope.freq_base": 1e4}
GEMMA = {**RMS, "attention.head_count_kv": 1, "attention.key_length": 256, "rope.freq_base": 1e6}
GEMMA |= {"attention.value_length": 256, "attention.sliding_window": 512}
PATTERN = [bool((layer + 1) % 6) for layer in range(12)]


def check(path: Path, arch: str, settings: dict[str, Any]) -> None:
    """Write a file of metadata only, let transformers make a config of it, and compare."""
    from transformers import AutoConfig

    writer = gguf.GGUFWriter(path / "a.gguf", arch)
    for key, value in {**SIZES, **settings}.items():
        name = f"{arch}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    config = AutoConfig.from_pretrained(path, gguf_file="a.gguf")
    refuse_lost_metadata(path / "a.gguf", read_header(path / "a.gguf").metadata, config)


@pytest.mark.parametrize(
    ("arch", "settings"),
    [
        ("llama", LLAMA),
        ("llama", {**LLAMA, "rope.freq_base": 5e5, "tensor_data_layout": "Meta AI original pth"}),
        ("llama", {**LLAMA, "rope.scaling.type": "none", "rope.scaling.factor": 1.0}),
        ("llama", {**LLAMA, "rope.scaling.factor": 0.0, "logit_scale": 1.0, "pooling_type": 0}),
        ("llama", {**LLAMA, "attention.sliding_window": 4096, "attention.causal": True}),
        ("llama", {**LLAMA, "attention.key_length": 8, "attention.value_length": 8}),
        ("qwen2", {**LLAMA, "rope.freq_base": 1e6}),
        ("gemma3", GEMMA),
        ("gemma3", {**GEMMA, "rope.freq_base_swa": 1e4, "attention.sliding_window_pattern": 6}),
        ("gemma3", {**GEMMA, "attention.sliding_window_pattern": PATTERN}),
        ("gpt2", NORM),
        ("bloom", {**NORM, "attention.head_count_kv": 4}),
        ("stablelm", {**NORM, "attention.head_count_kv": 2, "rope.dimension_count": 2}),
        ("starcoder2", {**NORM, "attention.head_count_kv": 2, "rope.freq_base": 1e4}),
        ("phi3", {**LLAMA, "rope.scaling.original_context_length": 4096}),
    ],
)
def test_metadata_that_arrives_is_accepted(
    arch: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    check(tmp_path, arch, settings)


@pytest.mark.parametrize(
    ("arch", "base", "lost"),
    [
        ("llama", LLAMA, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        ("llama", LLAMA, {"rope.scaling.factor": 4.0}),
        ("qwen2", LLAMA, {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}),
        ("gemma3", GEMMA, {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
        ("gemma3", GEMMA, {"attention.sliding_window_pattern": 3}),
        ("phi3", LLAMA, {"rope.scaling.attn_factor": 1.19}),
        ("llama", LLAMA, {"logit_scale": 0.1}),
        ("llama", LLAMA, {"attention.sliding_window": 64}),
        ("llama", LLAMA, {"attention.causal": False}),
        ("llama", LLAMA, {"attention.scale": 0.1}),
        ("llama", LLAMA, {"attention.value_length": 16}),
        ("llama", LLAMA, {"attention.key_length": [8, 16]}),
        ("llama", LLAMA, {"never_heard_of": 3}),
        ("gemma2", GEMMA, {"final_logit_softcapping": 20.0}),
        ("stablelm", NORM, {"rope.freq_base": 5e4}),
        ("stablelm", NORM, {"rope.dimension_count": 8}),
        ("starcoder2", NORM, {"rope.freq_base": 1e6}),
        ("nemotron", LLAMA, {"attention.layer_norm_epsilon": 1e-3}),
        ("falcon", {}, {"attention.layer_norm_epsilon": 1e-3}),
        ("qwen2moe", LLAMA, {"expert_weights_scale": 2.5}),
        ("qwen2moe", LLAMA, {"expert_weights_norm": True}),
    ],
)
def test_metadata_that_is_lost_is_refused_by_name(
    arch: str, base: dict[str, Any], lost: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match=f"does not take over into its {arch[:5]}") as caught:
        check(tmp_path, arch, {**base, **lost})
    for key in lost:
        assert f"{key}=" in str(caught.value)
