"""Score every edge on each prompt in one model: what a comparison of two models is made of.

1. Every edge's score on each example, by the method whose scores are tested.
2. The metric with all edges and with none, on the same prompts: δ is a share of their difference.
3. A sample of the weights, by which two models are known to be states of one training, or not.
4. As a control, the scores again with the weights rounded to bfloat16, a change without meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...discovery.registry import get_method
from ...experiment.spec import ComputeSpec, DiscoverySpec
from ...graphs.circuit import Circuit
from ...graphs.errors import FileFormatError
from ...graphs.example_scores import ExampleScores
from ...graphs.files.atomic import write_bytes
from ...graphs.graph import ComputationGraph
from ...patching.engines import about_engine
from ...patching.prompts.pairs import PromptPairs
from ...progress import Progress
from ...session import Session, make_runner, open_changed
from ..example_scores import score_examples

if TYPE_CHECKING:
    import torch

SAMPLED = 4096
"""Entries of each matrix of weights that are kept."""


@dataclass(frozen=True, eq=False)
class ScoredModel:
    """What the edges of one model are worth on each example.

    `full`, `empty`: the metric with all edges and with none. `weights`: a sample of the matrices of
    its layers, float32, each matrix brought to mean 0 and variance 1. `rounded`: the scores with
    weights rounded to bfloat16; None where that was not looked at. `engine`: name and version of
    what computed it; None of a file.
    """

    scores: ExampleScores
    full: float
    empty: float
    weights: np.ndarray
    rounded: ExampleScores | None = None
    engine: Mapping[str, str] | None = None

    def write(self, path: Path) -> None:
        """Write it as safetensors, all or nothing."""
        from safetensors.numpy import save

        tensors = {"scores": self.scores.values, "weights": self.weights}
        tensors["measured"] = np.array([self.full, self.empty])
        tensors["clusters"] = self.scores.clusters.astype(np.int64)
        if self.rounded is not None:
            tensors["rounded"] = self.rounded.values
        about = None if self.engine is None else {"engine": json.dumps(self.engine)}
        arrays = {key: np.ascontiguousarray(x) for key, x in tensors.items()}
        write_bytes(path, save(arrays, metadata=about))

    @staticmethod
    def read(path: Path, graph: ComputationGraph) -> ScoredModel:
        """Read what was written, of a graph; a FileFormatError if it is damaged or of another."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            found = load(path.read_bytes())
            groups = tuple(f"cluster {number}" for number in found["clusters"].tolist())
            full, empty = map(float, found["measured"])
            values = [found[key] for key in ("scores", "rounded") if key in found]
            if any(x.shape != (len(groups), graph.edge_count) for x in values):
                raise FileFormatError(f"{path} is of another graph; make it again.")
            scores, *rounded = (ExampleScores(graph, x, groups) for x in values)
            again = rounded[0] if rounded else None
            return ScoredModel(scores, full, empty, found["weights"], again)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise FileFormatError(f"{path} cannot be read ({error}); make it again.") from None


def score_model(
    session: Session,
    pairs: PromptPairs,
    spec: DiscoverySpec,
    *,
    rounded: bool,
    compute: ComputeSpec | None = None,
    progress: Progress | None = None,
) -> ScoredModel:
    """Score every edge of a model on each of the pairs; `rounded`: the control too."""
    scores = score_examples(session, pairs, spec, compute, progress)
    runner = make_runner(
        session, pairs, metric=spec.metric, ablation=spec.ablation,
        batch_size=None if compute is None else compute.batch_size, mlps=spec.mlps,
    )  # fmt: skip
    ends = (Circuit.full(runner.graph), Circuit.empty(runner.graph))
    full, empty = map(float, runner.measure(ends)[0])
    weights, again = weights_sample(session), None
    if rounded:
        other = (
            session if are_rounded(session.loaded.model) else open_changed(session, round_weights)
        )
        again = (
            scores if other is session else score_examples(other, pairs, spec, compute, progress)
        )
    by = get_method(spec.scored_by[0]).engine(runner)
    return ScoredModel(scores, full, empty, weights, again, about_engine(by))


def _wide(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Yield the weights that bfloat16 need not hold."""
    every = model.parameters()
    return (one for one in every if one.is_floating_point() and one.element_size() > 2)


def are_rounded(model: torch.nn.Module) -> bool:
    """Tell whether rounding a model's weights to bfloat16 would change none of them."""
    import torch

    return all(torch.equal(one, one.to(torch.bfloat16).to(one.dtype)) for one in _wide(model))


def round_weights(model: torch.nn.Module) -> None:
    """Round a model's weights to bfloat16, in place."""
    import torch

    with torch.no_grad():
        for one in _wide(model):
            one.copy_(one.to(torch.bfloat16).to(one.dtype))


def weights_sample(session: Session) -> np.ndarray:
    """Return some entries of every matrix of the layers, each matrix standardised, float32 [n]."""
    from ...graphs.lift.lifting import tensors_of

    found = []
    for block in session.lifted.blocks:
        for one in tensors_of(block):
            if one.ndim < 2 or not one.is_floating_point():
                continue
            flat = one.detach().reshape(-1)
            values = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED].float().cpu().numpy()
            spread = float(values.std())
            found.append((values - values.mean()) / (spread or 1.0))
    return np.concatenate(found).astype(np.float32) if found else np.zeros(0, dtype=np.float32)


def weights_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return how alike the weights of two models are, from -1 to 1; None where none is known.

    >>> weights_correlation(np.array([1.0, -1.0]), np.array([2.0, -2.0]))
    1.0
    """
    if a.shape != b.shape or not a.any() or not b.any():
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    return round(float(a @ b / np.sqrt((a @ a) * (b @ b))), 6)
