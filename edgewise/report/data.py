"""What the parts of a report share: the results they tell of, and how pictures are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store.names import circuit_name
from .markdown import escaped, link

if TYPE_CHECKING:
    from ..experiment.spec import Spec
    from ..graphs.files import CircuitFile, DiffFile

KINDS = {"q": "`<q>`", "k": "`<k>`", "v": "`<v>`", "post": "`o`", "mlp": "MLP", "logits": "logits"}
EMBEDDABLE = ("png", "svg")


@dataclass(frozen=True)
class Results:
    """Hold what a run's directory holds."""

    spec: Spec
    folder: Path
    task: Mapping[str, Any]
    circuits: Mapping[str, CircuitFile]
    diffs: Mapping[str, DiffFile]
    evaluations: Mapping[str, Any]

    def circuit_file(self, name: str) -> str:
        """Return the circuit file of a model by its name."""
        return next(circuit_name(model) for model in self.spec.models if model.name == name)


def images(names: Sequence[str], words: str) -> str:
    """Embed one format of a picture and link the others."""
    shown = [n for ending in EMBEDDABLE for n in names if n.endswith(f".{ending}")][:1]
    parts = [f"![{escaped(words)}]({name})" for name in shown]
    others = [name for name in names if name not in shown]
    if others:
        parts.append(f"Also as {', '.join(link(name) for name in others)}.")
    return "\n\n".join(parts)
