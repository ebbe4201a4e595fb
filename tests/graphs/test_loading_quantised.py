"""Quantised checkpoints, written by each format's definition, are read as what they stand for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgewise.graphs.errors import ModelNotFound
from edgewise.graphs.load.loading import load
from edgewise.session import open_model
from tests.saved import edit, logits, rewrite, tiny
from tests.wrappers import on_text, tiny_wrapper

DRAW = torch.Generator().manual_seed(0)
Packed = tuple[dict[str, Tensor], Tensor]
"""The tensors that stand for a matrix, by the ends of their names, and the matrix, [out, in]."""


def words(values: Tensor, bits: int) -> Tensor:
    """Pack [n, m] into words of 32 bits down each column, as one large whole number each."""
    columns = []
    for column in values.t().tolist():
        number = sum(int(value) << (bits * i) for i, value in enumerate(column))
        count = len(column) * bits // 32
        found = [(number >> (32 * i)) & 0xFFFFFFFF for i in range(count)]
        columns.append([one - 2**32 if one >= 2**31 else one for one in found])
    return torch.tensor(columns, dtype=torch.int32).t().contiguous()


def whole(low: int, high: int, *shape: int) -> Tensor:
    return torch.randint(low, high, shape, generator=DRAW)


def scales(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=DRAW) * 0.1 + 0.01).half()


def gptq(out: int, inner: int, bits: int = 4, order: bool = False, v2: bool = False) -> Packed:
    groups, most = 2, 2**bits
    q, z, s = whole(0, most, inner, out), whole(0, most, groups, out), scales(groups, out)
    group = torch.arange(inner) // (inner // groups)
    if order:
        group = group[torch.randperm(inner, generator=DRAW)]
    held = {
        "qweight": words(q, bits), "scales": s, "g_idx": group.int(),
        "qzeros": words(((z - int(not v2)) % most).t(), bits).t().contiguous(),
    }  # fmt: skip
    return held, ((q - z[group]) * s[group].float()).t()


def awq(out: int, inner: int) -> Packed:
    groups = 2
    q, z, s = whole(0, 16, inner, out), whole(0, 16, groups, out), scales(groups, out)
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(values: Tensor) -> Tensor:
        rows = [[row[i : i + 8] for i in range(0, len(row), 8)] for row in values.tolist()]
        numbers = [
            [sum(part[order[i]] << (4 * i) for i in range(8)) for part in row] for row in rows
        ]
        return torch.tensor(numbers).to(torch.int32)

    group = torch.arange(inner) // (inner // groups)
    held = {"qweight": pack(q), "qzeros": pack(z), "scales": s}
    return held, ((q - z[group]) * s[group].float()).t()


def int8_rows(out: int, inner: int) -> Packed:
    q, most = whole(-127, 128, out, inner), torch.rand(out, generator=DRAW) + 0.1
    held = {"weight": q.to(torch.int8), "SCB": most, "weight_format": torch.tensor(0).byte()}
    return held, q * most[:, None] / 127


def nf4(out: int, inner: int, nested: bool = True) -> Packed:
    block, count = 64, out * inner
    table = torch.linspace(-1, 1, 16)
    q = whole(0, 16, count + count % 2)
    blocks = -(-count // block)
    absmax = torch.rand(blocks, generator=DRAW) + 0.5
    state: dict[str, object] = {
        "quant_type": "nf4", "blocksize": block, "dtype": "float16", "shape": [out, inner],
    }  # fmt: skip
    extra = {}
    stored = absmax
    if nested:
        stored = whole(0, 256, blocks).byte()
        second, above = torch.rand(256, generator=DRAW), torch.rand(-(-blocks // 2), generator=DRAW)
        state |= {"nested_blocksize": 2, "nested_dtype": "float32", "nested_offset": 0.25}
        absmax = second[stored.long()] * above[torch.arange(blocks) // 2] + 0.25
        extra = {"weight.nested_absmax": above, "weight.nested_quant_map": second}
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    held = {
        "weight": ((q[0::2] << 4) | q[1::2]).byte()[:, None], "weight.absmax": stored, **extra,
        "weight.quant_map": table, "weight.quant_state.bitsandbytes__nf4": text,
    }  # fmt: skip
    return held, (table[q[:count]] * absmax[torch.arange(count) // block]).view(out, inner)


def packed_groups(out: int, inner: int, symmetric: bool = True) -> Packed:
    groups = 2
    q, s = whole(-8, 8, out, inner), scales(out, groups)
    z = torch.zeros(out, groups).long() if symmetric else whole(-8, 8, out, groups)
    held = {
        "weight_packed": words((q + 8).t(), 4).t().contiguous(), "weight_scale": s,
        "weight_shape": torch.tensor([out, inner]),
    }  # fmt: skip
    if not symmetric:
        held["weight_zero_point"] = words(z + 8, 4)
    group = torch.arange(inner) // (inner // groups)
    return held, (q - z[:, group]) * s.float()[:, group]


def int8_channels(out: int, inner: int) -> Packed:
    q, s = whole(-127, 128, out, inner), scales(out, 1)
    return {"weight": q.to(torch.int8), "weight_scale": s}, q * s.float()


def float8_rows(out: int, inner: int) -> Packed:
    q = torch.randn(out, inner, generator=DRAW).to(torch.float8_e4m3fn)
    s = scales(out, 1).float()
    return {"weight": q, "weight_scale": s}, q.float() * s


def float8_blocks(out: int, inner: int) -> Packed:
    q = torch.randn(out, inner, generator=DRAW).to(torch.float8_e4m3fn)
    s = scales(1, 1).float()
    return {"weight": q, "weight_scale_inv": s}, q.float() * s


def group(**weights: object) -> dict[str, Any]:
    return {"group_0": {"weights": {"type": "int", **weights}, "targets": ["Linear"]}}


FORMATS: dict[str, tuple[Callable[[int, int], Packed], dict[str, Any]]] = {
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "group_size": 16}),
    "gptq-order": (
        lambda o, i: gptq(o, i, order=True), {"quant_method": "gptq", "bits": 4, "desc_act": True},
    ),
    "gptq-2": (lambda o, i: gptq(o, i, 2), {"quant_method": "gptq", "bits": 2}),
    "gptq-3": (lambda o, i: gptq(o, i, 3), {"quant_method": "gptq", "bits": 3}),
    "gptq-8": (lambda o, i: gptq(o, i, 8), {"quant_method": "gptq", "bits": 8}),
    "gptq-v2": (
        lambda o, i: gptq(o, i, v2=True),
        {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"},
    ),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}),
    "bitsandbytes-8": (int8_rows, {"load_in_8bit": True, "quant_method": "bitsandbytes"}),
    "bitsandbytes-4": (nf4, {"load_in_4bit": True, "_load_in_4bit": True}),
    "bitsandbytes-4-plain": (
        lambda o, i: nf4(o, i, False), {"load_in_4bit": True, "quant_method": "bitsandbytes"},
    ),
    "compressed-4": (
        packed_groups,
        {"quant_method": "compressed-tensors", "format": "pack-quantized",
         "config_groups": group(num_bits=4, symmetric=True, strategy="group", group_size=16)},
    ),
    "compressed-4-zero": (
        lambda o, i: packed_groups(o, i, False),
        {"quant_method": "compressed-tensors", "format": "pack-quantized",
         "config_groups": group(num_bits=4, symmetric=False, strategy="group", group_size=16)},
    ),
    "compressed-8": (
        int8_channels,
        {"quant_method": "compressed-tensors", "format": "int-quantized",
         "config_groups": group(num_bits=8, strategy="channel")},
    ),
    "compressed-float": (
        float8_rows,
        {"quant_method": "compressed-tensors", "format": "float-quantized",
         "config_groups": group(num_bits=8, type="float", strategy="channel")},
    ),
    "fbgemm": (float8_rows, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "fp8": (
        float8_blocks,
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
    ),
}  # fmt: skip


def large() -> Any:
    """Build a model whose matrices are as wide as words of 32 bits need."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=32, num_hidden_layers=2, num_key_value_heads=2, **sizes)
    return LlamaForCausalLM(config).eval()


def quantise(model: Any, path: Path, kind: str, inside: str = "") -> None:
    """Save a model with its matrices packed, and put into it what they stand for."""
    pack, settings = FORMATS[kind]
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and "_proj" in name and inside in name:
                module.held, weight = pack(*module.weight.shape)
                module.weight.copy_(weight)
    model.save_pretrained(path)
    file = path / "model.safetensors"
    tensors = load_file(file)
    for name, module in model.named_modules():
        if hasattr(module, "held"):
            at = next(key for key in tensors if key.endswith(f"{name.split('language_model.')[-1]}"
                                                             ".weight"))  # fmt: skip
            del tensors[at]
            base = at.removesuffix(".weight")
            tensors |= {f"{base}.{end}": t.contiguous() for end, t in module.held.items()}
            del module.held
    save_file(tensors, file, metadata={"format": "pt"})
    edit(path / "config.json", quantization_config=settings)


@pytest.mark.parametrize("kind", FORMATS)
def test_packed_weights_are_read_as_what_they_stand_for(kind: str, tmp_path: Path) -> None:
    model = large()
    quantise(model, tmp_path, kind)
    with pytest.warns(UserWarning, match=r"has quantised weights \(.*unpacked: a circuit is"):
        session = open_model(tmp_path, dtype="float64")
    for name, tensor in model.state_dict().items():
        found = session.loaded.model.state_dict()[name]
        torch.testing.assert_close(found.float(), tensor, rtol=3e-7, atol=0)
    method = FORMATS[kind][1].get("quant_method", "bitsandbytes")
    assert dict(session.model_block)["dequantised"] == method
    assert session.loaded.dequantised == method


@pytest.mark.parametrize("kind", ["gptq", "fp8"])
def test_a_packed_text_body_is_read(kind: str, tmp_path: Path) -> None:
    from tests import wrappers

    name, options = wrappers.WRAPPERS["llava"]
    sizes = {"hidden_size": 32, "intermediate_size": 64}
    wrappers.WRAPPERS["llava-wide"] = name, {
        **options, "text_config": {**options["text_config"], **sizes},
    }  # fmt: skip
    try:
        model = tiny_wrapper("llava-wide")
    finally:
        del wrappers.WRAPPERS["llava-wide"]
    quantise(model, tmp_path, kind, "language_model")
    with pytest.warns(UserWarning, match="has quantised weights"):
        loaded = load(tmp_path)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    torch.testing.assert_close(on_text(loaded.model, ids), on_text(model, ids))


FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def test_gpt_oss_is_read_from_mxfp4(tmp_path: Path) -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=32, hidden_size=32, intermediate_size=32, num_hidden_layers=2, head_dim=8,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        sliding_window=4, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = GptOssForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    table = torch.tensor([*FP4, *(-x for x in FP4)])

    def pack(tensors: dict[str, Tensor]) -> None:
        for name, tensor in list(tensors.items()):
            if name.endswith(("gate_up_proj", "down_proj")):
                experts, inner, out = tensor.shape
                q = whole(0, 16, experts, out, inner // 32, 32)
                power = whole(120, 126, experts, out, inner // 32)
                value = table[q] * 2.0 ** (power[..., None] - 127)
                plain = value.flatten(-2).transpose(1, 2)
                model.state_dict()[name].copy_(plain)
                del tensors[name]
                tensors[f"{name}_blocks"] = (q[..., 0::2] | (q[..., 1::2] << 4)).byte()
                tensors[f"{name}_scales"] = power.byte()

    rewrite(tmp_path / "model.safetensors", pack)
    edit(tmp_path / "config.json", quantization_config={"quant_method": "mxfp4"})
    with pytest.warns(UserWarning, match=r"has quantised weights \(mxfp4\)"):
        session = open_model(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(session.loaded.model.state_dict()[name], tensor), name


def test_what_cannot_be_unpacked_is_refused_and_says_why(tmp_path: Path) -> None:
    tiny().save_pretrained(tmp_path)
    file = tmp_path / "config.json"

    def says(settings: object, *expected: str) -> None:
        edit(file, quantization_config=settings)
        with pytest.raises(ModelNotFound) as caught:
            load(tmp_path)
        for words in expected:
            assert words in str(caught.value)

    says({"quant_method": "hqq"}, "quantised weights (hqq)", "package hqq, not installed here")
    says({"quant_method": "torchao"}, "package torchao", "unquantised checkpoint")
    says({"quant_method": "gptq", "checkpoint_format": "marlin"}, "in the layout 'marlin'")
    says({"quant_method": "brand-new"}, "(brand-new). Accepted", "gptq", "mxfp4")
    says({"bits": 4}, "quantised weights (?)")
    says("text", "quantised weights (text)")
    says({"quant_method": "awq"}, "none of its tensors is packed so: none ends in .qweight")


@pytest.mark.parametrize("kind", ["gptq", "awq", "bitsandbytes-4", "compressed-4"])
def test_a_damaged_matrix_is_named(kind: str, tmp_path: Path) -> None:
    quantise(large(), tmp_path, kind)
    ends = ("scales", "absmax", "weight_scale")

    def cut(tensors: dict[str, Tensor]) -> None:
        at = next(n for n in tensors if "layers.1.mlp.up_proj" in n and n.endswith(ends))
        tensors[at] = tensors[at].flatten()[:3].clone()

    rewrite(tmp_path / "model.safetensors", cut)
    with pytest.raises(ModelNotFound, match=r"weights of 'model\.layers\.1\.mlp\.up_proj' in"):
        load(tmp_path)


def test_a_missing_matrix_is_refused_as_ever(tmp_path: Path) -> None:
    quantise(large(), tmp_path, "gptq")

    def drop(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if "layers.1.mlp.up_proj" in n]:
            del tensors[name]

    rewrite(tmp_path / "model.safetensors", drop)
    with pytest.raises(ModelNotFound, match=r"1 missing keys \(model\.layers\.1\.mlp\.up_proj"):
        load(tmp_path)


def test_plain_weights_say_nothing_of_unpacking(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.dequantised is None
    assert "dequantised" not in loaded.provenance
    assert torch.equal(logits(loaded.model), logits(model))
