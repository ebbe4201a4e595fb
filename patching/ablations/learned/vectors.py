"""One vector for each sender: how `Values` hold them, and the file that they stand in.

Of a head the vector is of what it mixes, before its part of the output projection makes of it what
it writes; of all other senders it is what is written.

| tensor | shape |
| --- | --- |
| a sender's name, such as `a3.h1` or `m2` | [K] of a head, [D] of others |
| `given.0`, … | [P], what the embedding sends to a layer's MLP past the stream, where it does |

Metadata: `format`, `version`, `provenance` (JSON: whatever led to them).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ....graphs.errors import FileFormatError
from ....graphs.graph import ComputationGraph

if TYPE_CHECKING:
    from torch import Tensor

    from ...trace import Values

FORMAT, VERSION = "edgewise/ablation", "1"
COMMAND = "optimal"
MOST_BYTES = 1 << 32
"""Most bytes of a file: the vectors of a model of a thousand layers of width 20,000 are a tenth."""


def split(values: Values) -> list[Tensor]:
    """Return each sender's vector, [K] or [D], in graph order, of values [1, 1, …]."""
    found = [x[0, 0] for x in values.sources]
    for layer, z in enumerate(values.z):
        found += list(z[0, 0])
        if values.post and values.post[layer].shape[-1]:
            found.append(values.post[layer][0, 0])
        found += [x[0, 0] for x in values.mlp[layer]]
    return found


def together(vectors: list[Tensor], like: Values) -> Values:
    """Return values [1, 1, …] of the vectors of all senders; `like`: of the same model."""
    import torch

    rest = iter(vectors)

    def next_of(x: Tensor, axis: int) -> Tensor:
        some = [next(rest) for _ in range(x.shape[axis])]
        return torch.stack(some)[:, None, None] if some else x

    sources = next_of(like.sources, 0)
    z, post, mlp = [], [], []
    for layer, old in enumerate(like.z):
        heads = next_of(old, 2)
        z.append(heads if heads is old else heads.movedim(0, 2))
        if like.post:
            wide = bool(like.post[layer].shape[-1])
            post.append(next(rest)[None, None] if wide else like.post[layer])
        mlp.append(next_of(like.mlp[layer], 0))
    return type(like)(sources, tuple(z), tuple(mlp), tuple(post), like.given)


def write(
    path: str | Path, graph: ComputationGraph, values: Values, provenance: Mapping[str, object]
) -> Path:
    """Write the vectors of all senders to a file, all or nothing; return where."""
    from ....graphs.files.atomic import write_bytes

    names = [str(node) for node in graph.senders]
    tensors = dict(zip(names, split(values), strict=True))
    tensors |= {f"given.{layer}": x[0, 0] for layer, x in enumerate(values.given)}
    parts = {name: x.detach().float().cpu().numpy().astype("<f4") for name, x in tensors.items()}
    about = json.dumps(dict(provenance), ensure_ascii=False, sort_keys=True)
    head: dict[str, object] = {
        "__metadata__": {"format": FORMAT, "version": VERSION, "provenance": about}
    }
    end = 0
    for name, x in parts.items():
        begin, end = end, end + x.nbytes
        head[name] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [begin, end]}
    text = json.dumps(head).encode()  # the library's own order of metadata is random
    text += b" " * (-len(text) % 8)
    content = b"".join(x.tobytes() for x in parts.values())
    write_bytes(path, len(text).to_bytes(8, "little") + text + content)
    return Path(path)


def content_hash(path: str | Path) -> str:
    """Hash a file's bytes; a FileFormatError says if it cannot be read."""
    from ....graphs.files.reading import at_home, read_bounded

    content = read_bounded(at_home(path), MOST_BYTES, "a file of learned vectors")
    return hashlib.sha256(content).hexdigest()


def read_provenance(path: str | Path) -> dict[str, object]:
    """Return what led to a file of vectors."""
    from ....graphs.files.scores import opened_scores

    with opened_scores(Path(path)) as opened:
        metadata = _metadata(Path(path), dict(opened.metadata() or {}))
    try:
        found = json.loads(metadata["provenance"])
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FileFormatError(f"{path}: its provenance cannot be read; learn the vectors again.")
    return found


def read(path: str | Path, graph: ComputationGraph, like: Values) -> Values:
    """Read vectors for a model, of whose values `like` are, [B, T, …]; refuse another model's."""
    import torch

    from ....graphs.files.reading import at_home
    from ....graphs.files.scores import opened_scores

    place = at_home(path)
    expected = like.map(lambda x: x[:1, :1].float())
    names = [str(node) for node in graph.senders]
    shapes = [list(x.shape) for x in split(expected)]
    names += [f"given.{layer}" for layer in range(len(like.given))]
    shapes += [list(x.shape[2:]) for x in like.given]
    with opened_scores(place) as opened:
        _metadata(place, dict(opened.metadata() or {}))
        there = set(opened.keys())
        if there != set(names):
            more, lacking = sorted(there - set(names)), sorted(set(names) - there)
            raise FileFormatError(
                f"{path} is of another model: it holds vectors of {len(there)} senders, "
                f"{_some(more)} too many and {_some(lacking)} too few; accepted: the model that "
                "they were learned in."
            )
        vectors = []
        for name, shape in zip(names, shapes, strict=True):
            tensor = opened.get_slice(name)
            found = tensor.get_shape()
            if found != shape or tensor.get_dtype() != "F32":
                raise FileFormatError(
                    f"{path} is of another model: {name} is {tensor.get_dtype()} of shape {found}; "
                    f"accepted: F32 of shape {shape}."
                )
            vectors.append(torch.from_numpy(opened.get_tensor(name)).to(like.sources.device))
    if not all(bool(x.isfinite().all()) for x in vectors):
        raise FileFormatError(f"{path}: a vector is not finite; learn the vectors again.")
    own = len(graph.senders)
    found_values = together(vectors[:own], expected)
    given = tuple(x[None, None] for x in vectors[own:])
    return type(like)(
        found_values.sources, found_values.z, found_values.mlp, found_values.post, given
    )


def _metadata(path: Path, metadata: dict[str, str]) -> dict[str, str]:
    if metadata.get("format") != FORMAT or "provenance" not in metadata:
        raise FileFormatError(
            f"{path} holds no vectors of this ablation; accepted: a file that `edgewise {COMMAND}` "
            "wrote."
        )
    if metadata.get("version") != VERSION:
        raise FileFormatError(
            f"{path} is of version {metadata.get('version')!r:.40}; accepted: {VERSION}."
        )
    return metadata


def _some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])})" if names else "0"
