"""Unpack a checkpoint's quantised weights into plain ones, exactly by each format's definition.

MXFP4 and FP8 in blocks are unpacked by transformers, on any processor. The others store a matrix W,
[out, in], as whole numbers q with scales s and zero points z, and W = (q − z) · s in float32:

* GPTQ: `qweight` packs q along in, `qzeros` z − 1 along out, in words of 32 bits, a stream of bits
  each; `scales` [groups, out]; `g_idx` is each input's group (Frantar et al. 2022, as AutoGPTQ).
* AWQ: all are [in, …] and packed along out, eight values of 4 bits a word, in the order
  0, 2, 4, 6, 1, 3, 5, 7 (Lin et al. 2023, the `gemm` layout).
* bitsandbytes: of 8 bits q · SCB / 127 by row (Dettmers et al. 2022); of 4 bits `quant_map`[q] ·
  `absmax` by block, the first value in the high bits, `absmax` perhaps quantised in turn.
* compressed-tensors and FBGEMM: `weight` of whole numbers or float8, or `weight_packed` of words of
  32 bits, with `weight_scale` by row, group, block or for all, and `weight_zero_point` or none.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelNotFound
from .references import read_json
from .sizes import Stored

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST_IN_ONE = 16
"""At most so many weights are stored in one number: 2 bits each in a word of 32."""

_LIBRARIES = {
    "aqlm": "aqlm", "auto-round": "auto_round", "eetq": "kernels", "fp_quant": "fp_quant",
    "higgs": "flute", "hqq": "hqq", "quanto": "optimum.quanto", "quark": "quark",
    "sinq": "sinq", "spqr": "spqr_quant", "torchao": "torchao", "vptq": "vptq",
}  # fmt: skip
"""The packages that transformers needs for formats that are not unpacked here."""

Tensors = Mapping[str, "Tensor"]
Settings = Mapping[str, Any]


def quantisation(config: Mapping[str, object]) -> Mapping[str, object] | None:
    """Return what a config.json says of quantised weights, of the whole or of its text part."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    found = [part["quantization_config"] for part in parts if part.get("quantization_config")]
    if not found:
        found = [part["compression_config"] for part in parts if part.get("compression_config")]
    if not found:
        return None
    return found[0] if isinstance(found[0], dict) else {"quant_method": str(found[0])}


def method_of(settings: Settings) -> str:
    """Return the name of a quantisation's format."""
    found = settings.get("quant_method")
    if found is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return "bitsandbytes"
    return str(found or "?")


def refuse_unknown(settings: Settings, what: str) -> None:
    """Refuse a format that cannot be unpacked, and name what is missing or accepted."""
    method = method_of(settings)
    reason = ""
    if method in _LIBRARIES:
        package = _LIBRARIES[method]
        known = find_spec(package.partition(".")[0]) is not None
        reason = f"; unpacking them needs the Python package {package}" + (
            ", which is here: load the model with transformers, call its dequantize() and pass it "
            "as a live module" if known else ", not installed here"
        )  # fmt: skip
    elif method in _BY_TRANSFORMERS and find_spec("accelerate") is None:
        reason = "; unpacking them needs the Python package accelerate, not installed here"
    elif method in {*_BY_TRANSFORMERS, *_READERS}:
        layout = str(settings.get("version") or settings.get("checkpoint_format") or "").lower()
        layout = "marlin" if settings.get("is_marlin_format") else layout
        if layout not in _STRANGE:
            return
        reason = f" in the layout '{layout}', which is for one kind of graphics card"
    raise ModelNotFound(
        f"{what} has quantised weights ({method}){reason}. Accepted: weights in float types; "
        f"those of {', '.join(sorted({*_BY_TRANSFORMERS, *_READERS}))}, which are unpacked on "
        "loading; a GGUF file. Use the unquantised checkpoint."
    )


_BY_TRANSFORMERS = {"mxfp4": "Mxfp4Config", "fp8": "FineGrainedFP8Config"}
_STRANGE = ("marlin", "gemv", "gemv_fast", "bitblas")


def warn_dequantised(settings: Settings, what: str) -> None:
    """Warn that a circuit will be of the unpacked weights."""
    warnings.warn(
        f"{what} has quantised weights ({method_of(settings)}), which are unpacked: a circuit is "
        "one of the unpacked weights. Programs that compute in the packed type may differ from it.",
        stacklevel=3,
    )


def wider(stored: Stored) -> Stored:
    """Return how much quantised weight files may hold at most when they are unpacked."""
    return Stored(stored.tensors, stored.numbers * MOST_IN_ONE, stored.largest * MOST_IN_ONE)


def unpacking(settings: Settings, path: Path, dtype: str, *, pickle: bool) -> dict[str, Any]:
    """Return what `from_pretrained` takes so that a model's weights are plain.

    Either it unpacks them itself, or it is given them as a whole `state_dict`.
    """
    import torch

    method = method_of(settings)
    if method in _BY_TRANSFORMERS:
        import transformers

        return {"quantization_config": getattr(transformers, _BY_TRANSFORMERS[method])(
            dequantize=True
        )}  # fmt: skip
    found = read_all(path, pickle=pickle)
    plain = dict(unpacked(found, settings, path))
    kind = getattr(torch, dtype)
    return {"state_dict": {n: t.to(kind) if t.is_floating_point() else t for n, t in plain.items()}}


def forget(config: Any) -> None:
    """Take from a configuration what it says of quantised weights: they are plain now."""
    parts = [config, *(part for part in vars(config).values() if hasattr(part, "model_type"))]
    for part in parts:
        for mark in {"quantization_config", "compression_config"} & set(vars(part)):
            delattr(part, mark)


def read_all(path: Path, *, pickle: bool) -> dict[str, Tensor]:
    """Read the tensors of a directory's weight files, those that its index names if it has one."""
    import torch
    from safetensors.torch import load_file

    found: dict[str, Tensor] = {}
    for file in _files(path, "model.safetensors"):
        found |= load_file(file)
    if not found and pickle:
        for file in _files(path, "pytorch_model.bin"):
            found |= torch.load(file, map_location="cpu", weights_only=True)
    return found


def _files(path: Path, name: str) -> list[Path]:
    if (path / name).is_file():
        return [path / name]
    index = path / f"{name}.index.json"
    names = read_json(index).get("weight_map") if index.is_file() else {}
    return [path / one for one in sorted({*names.values()})] if isinstance(names, dict) else []


def unpacked(tensors: Tensors, settings: Settings, where: object) -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's tensors, those of quantised matrices put together to plain ones."""
    method, count = method_of(settings), 0
    read, mark, belongs = _READERS[method]
    left = dict(tensors)
    for name in tensors:
        base = next((name.removesuffix(end) for end in mark if name.endswith(end)), None)
        if base is None:
            continue
        parts = {end: left[base + end] for end in belongs if base + end in left}
        parts |= {n.removeprefix(base): left[n] for n in left if n.startswith(f"{base}.weight.")}
        try:
            weight = read(parts, settings)
        except (KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
            raise ModelNotFound(
                f"the weights of '{base}' in '{where}' are not as {method} packs them: "
                f"{type(error).__name__}: {' '.join(str(error).split())[:120]}. Accepted: a whole "
                "checkpoint of this format; use the unquantised one."
            ) from error
        if weight is None:
            continue
        count += 1
        for end in parts:
            del left[base + end]
        left[f"{base}.weight"] = weight
    if not count:
        raise ModelNotFound(
            f"'{where}' has quantised weights ({method}) by its config.json, but none of its "
            f"tensors is packed so: none ends in {' or '.join(mark)}. Remove the entry if its "
            "weights are plain; use the unquantised checkpoint otherwise."
        )
    yield from ((name, tensor) for name, tensor in left.items() if not name.endswith(_CACHED))


# -- formats: what a matrix's tensors give, [out, in] --------------------------------------------


def _stream(words: Tensor, bits: int) -> Tensor:
    """Unpack whole numbers from words of 32 bits [n, m], a stream down each column, [32n/bits, m].

    The first value is in the lowest bits; one may lie in two words.
    """
    import torch

    at = torch.arange(words.shape[0] * 32 // bits) * bits
    wide = words.long() & 0xFFFFFFFF
    both = wide | (torch.cat((wide[1:], torch.zeros_like(wide[:1]))) << 32)
    found: Tensor = (both[at // 32] >> (at % 32)[:, None]) & (2**bits - 1)
    return found


def _gptq(parts: Tensors, settings: Settings) -> Tensor:
    import torch

    words, scales = parts[".qweight"], parts[".scales"].float()  # [in·bits/32, out], [groups, out]
    bits = int(settings.get("bits", 4))
    if ".g_idx" in parts:
        group = parts[".g_idx"].long()
        bits = words.shape[0] * 32 // len(group)  # single matrices may have others
    else:
        inputs, size = words.shape[0] * 32 // bits, int(settings.get("group_size", -1))
        group = torch.arange(inputs) // (size if size > 0 else inputs)
    if bits not in (2, 3, 4, 8):
        raise ValueError(f"{bits} bits")
    zeros = _stream(parts[".qzeros"].t(), bits).t()[:, : scales.shape[1]]
    if settings.get("checkpoint_format") != "gptq_v2":
        zeros = (zeros + 1) & (2**bits - 1)
    q = _stream(words, bits)[: len(group)]
    return ((q - zeros[group]) * scales[group]).t().contiguous()


def _awq(parts: Tensors, settings: Settings) -> Tensor:
    import torch

    def values(words: Tensor) -> Tensor:
        places = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]) * 4
        return ((words.long()[..., None] >> places) & 15).flatten(-2)

    if int(settings.get("bits", settings.get("w_bit", 4))) != 4:
        raise ValueError("AWQ of other than 4 bits")
    q, z, scales = values(parts[".qweight"]), values(parts[".qzeros"]), parts[".scales"].float()
    size = len(q) // len(scales)
    if size * len(scales) != len(q):
        raise ValueError(f"{len(q)} rows in {len(scales)} groups")
    z, scales = z.repeat_interleave(size, 0), scales.repeat_interleave(size, 0)
    return ((q - z) * scales).t().contiguous()


def _bitsandbytes(parts: Tensors, settings: Settings) -> Tensor | None:
    import torch

    weight = parts[".weight"]
    if ".SCB" in parts:
        rows: Tensor = weight.float() * (parts[".SCB"].float() / 127)[:, None]
        return rows
    states = [end for end in parts if ".quant_state.bitsandbytes__" in end]
    if not states:
        return None
    state = json.loads(bytes(parts[states[0]].tolist()))
    table, absmax = parts[".weight.quant_map"].float(), parts[".weight.absmax"]
    if ".weight.nested_absmax" in parts:
        scale = parts[".weight.nested_absmax"].float()
        scale = scale.repeat_interleave(int(state["nested_blocksize"]))[: len(absmax)]
        absmax = parts[".weight.nested_quant_map"].float()[absmax.long()] * scale
        absmax = absmax + state["nested_offset"]
    packed = weight.flatten().long()
    values = table[torch.stack((packed >> 4, packed & 15), -1).flatten()]
    count = torch.Size(state["shape"]).numel()
    scale = absmax.float().repeat_interleave(int(state["blocksize"]))[:count]
    return (values[:count] * scale).view(*state["shape"])


def _compressed(parts: Tensors, settings: Settings) -> Tensor | None:
    import torch

    if ".weight_packed" not in parts:
        weight = parts.get(".weight")
        if weight is None or ".weight_scale" not in parts:
            return None
        zero = parts.get(".weight_zero_point")
        q = weight.float()
        z = torch.zeros(()) if zero is None else zero.float()
    else:
        groups = settings.get("config_groups") or {}
        bits = {int(g["weights"]["num_bits"]) for g in groups.values()}
        kinds = {g["weights"].get("type", "int") for g in groups.values()}
        if len(bits) != 1 or kinds != {"int"}:
            raise ValueError(f"groups of {sorted(bits)} bits and types {sorted(kinds)}")
        (width,) = bits
        if width not in (4, 8):
            raise ValueError(f"{width} bits")
        rows, columns = parts[".weight_shape"].tolist()
        half = 2 ** (width - 1)
        q = (_stream(parts[".weight_packed"].t(), width).t()[:rows, :columns] - half).float()
        z = torch.zeros(())
        if ".weight_zero_point" in parts:
            z = parts[".weight_zero_point"]
            z = (_stream(z, width)[:rows] - half).float() if z.dtype == torch.int32 else z.float()
    scale = parts[".weight_scale"].float()
    if ".weight_g_idx" in parts and bool((group := parts[".weight_g_idx"].long()).min() >= 0):
        scale, z = scale[:, group], z if z.dim() == 0 else z[:, group]
        return (q - z) * scale
    return (q - _spread(z, q.shape)) * _spread(scale, q.shape)


def _spread(values: Tensor, shape: torch.Size) -> Tensor:
    """Repeat what is given for all, by row, by group of columns or by block, over a matrix."""
    if values.numel() == 1:
        return values.reshape(())
    if values.dim() == 1:
        values = values[:, None]
    for axis in (0, 1):
        times = shape[axis] // values.shape[axis]
        if times * values.shape[axis] != shape[axis]:
            raise ValueError(f"scales {list(values.shape)} of a matrix {list(shape)}")
        values = values.repeat_interleave(times, axis)
    return values


_CACHED = (".k_scale", ".v_scale", ".kv_scale")
"""Scales of a quantised cache of keys and values, which plain runs do not have."""

_Reader = Callable[[Tensors, Settings], "Tensor | None"]
_SCALED = (".weight", ".weight_scale", ".weight_zero_point", ".input_scale", ".output_scale")
_PACKED = (".weight_packed", ".weight_shape", ".weight_g_idx", ".input_zero_point")
_READERS: dict[str, tuple[_Reader, tuple[str, ...], Iterable[str]]] = {
    "gptq": (_gptq, (".qweight",), (".qweight", ".qzeros", ".scales", ".g_idx")),
    "awq": (_awq, (".qweight",), (".qweight", ".qzeros", ".scales")),
    "bitsandbytes": (
        _bitsandbytes, (".SCB", ".weight.absmax"), (".weight", ".SCB", ".weight_format"),
    ),
    "compressed-tensors": (
        _compressed, (".weight_packed", ".weight_scale"), (*_SCALED, *_PACKED),
    ),
    "fbgemm_fp8": (_compressed, (".weight_scale",), (*_SCALED, ".input_scale_ub")),
}  # fmt: skip
"""By the name of a format: what puts a matrix together, by which tensors one is known (the end of
their names), and which further ones are of it."""
