"""Attribution of a runner's edges by the compiled engine: what `gradients.attribution` returns.

The prompts are cut into chunks of few shapes, each is scored by one compiled program, and scores
add up here in float64.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from ...graphs.graph import ComputationGraph
from ...graphs.lift.lifted import LiftedModel
from ...graphs.scores import Scores
from ..gradients.finish import finished
from ..run.floors import floor_of
from ..run.memory import LAPTOP, Budget, free_for_jax
from ..run.runner import Progress, Runner
from .attribution import Carries, MeasuredBy, ScoreProgram, SummedScores, scores
from .batches import PairChunk, cut, padded
from .carried import Carrying
from .crossing import to_array
from .losses import counterpart
from .model import CompiledModel, compiled
from .parts.deltas import Wrote
from .parts.scoring import GROUPS
from .segments import by_layer, stack_run


def attribute(
    runner: Runner,
    points: Sequence[float],
    progress: Progress | None = None,
    each: np.ndarray | None = None,
) -> Scores:
    """Score every edge by (a_u − o_u) · ∂loss/∂x_p, the gradient averaged over points.

    `each`: float32 [examples, edges], filled with the scores on each example of the pairs.
    """
    metric = runner.metric
    metric.require_gradient(at_clean_only=all(point == 1 for point in points))
    counterpart(metric)
    runner.require_unchanged()
    with precision(runner.model):
        total = _summed(runner, points, progress, each)
    return finished(runner, points, total)


def _summed(
    runner: Runner, points: Sequence[float], progress: Progress | None, each: np.ndarray | None
) -> np.ndarray:
    model, graph = compiled(runner.model), runner.graph
    paired, apart = runner.ablation.paired, each is not None
    together = _points_at_once(runner, points, model)
    most = _examples_at_once(runner, together, model)
    cuts = cut(runner.model, runner.pairs, most, paired=paired, apart=apart)
    carrying = None if paired else Carrying(runner, model, cuts)
    groups = _groups(points, together)
    total, done, size = np.zeros(graph.reads.shape), 0, 0.0
    for chunk in cuts:
        prompts = padded(runner.model, chunk, model.device, paired=paired, apart=apart)
        base = None if carrying is None else base_of(carrying.values(chunk), model, chunk)
        program = ScoreProgram(
            plan=model.plan, measured=MeasuredBy(runner.metric), start=chunk.sizes.start,
            at_clean=list(points) == [1.0], paired=paired, apart=apart,
        )  # fmt: skip
        for at, shares in groups:
            found = scores(program, model.weights, prompts, at, shares, base)
            here = jax.device_get(found)
            examples = _put(graph, model, here, total, np.asarray(chunk.batch.owner))
            if each is not None and examples is not None:
                each[chunk.rows] += examples
            if at is groups[0][0]:
                size += float(here.rounded[: len(chunk.batch.answer_position)].sum())
            done += len(chunk.rows) * int((shares > 0).sum())
            if progress is not None:
                progress(done, len(runner.pairs) * len(points), "gradients taken")
    runner.note_floor(floor_of(size, len(runner.pairs), runner.model.dtype))
    return total


def _groups(points: Sequence[float], together: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut points into groups of one size; points that are added have no share."""
    found = []
    for i in range(0, len(points), together):
        own = list(points[i : i + together])
        added = together - len(own)
        at = np.array([*own, *[own[-1]] * added], dtype=np.float32)
        shares = np.array([1 / len(points)] * len(own) + [0.0] * added, dtype=np.float32)
        found.append((at, shares))
    return found


def _put(
    graph: ComputationGraph,
    model: CompiledModel,
    found: SummedScores,
    total: np.ndarray,
    owner: np.ndarray,
) -> np.ndarray | None:
    """Add what a chunk found to all scores; return each example's, [examples, E], if apart.

    `owner`: int [B], whose each run is.
    """
    apart = found.logits.ndim == 3
    shape = (len(found.logits), *total.shape) if apart else total.shape
    own = np.zeros(shape, dtype=np.float32)
    row = 0
    layers = by_layer(model.plan.runs, found.layers)
    firsts = by_layer(model.plan.runs, found.first)
    for layer, (values, first) in enumerate(zip(layers, firsts, strict=True)):
        count = values.shape[-2]
        own[..., row : row + count, : values.shape[-1]] = values
        row += count
        if first is not None:
            assert graph.has_mlp(layer)
            own[..., row - 1, 0] += first
    own[..., row:, :] = found.logits
    if not apart:
        total += own
        return None
    each = own[: len(owner), graph.reads]
    total[graph.reads] += each.sum(0, dtype=np.float64)
    if len(owner) == owner[-1] + 1:  # a run each
        return each
    examples = np.zeros((owner[-1] + 1, each.shape[1]), dtype=np.float32)
    np.add.at(examples, owner, each)
    return examples


def _per_token(runner: Runner, points: int) -> int:
    """Estimate the bytes that scoring takes of each token, with so many points at once."""
    model = runner.model
    layers, width = len(model.blocks), model.d_model
    inner = max(sum(block.features) for block in model.blocks)
    size = 8 if model.dtype == torch.float64 else 4
    ports = max(1, len(runner.graph.ports) // max(1, layers))
    ports *= 1 + -(-layers // GROUPS)
    kept = len(runner.graph.senders) + ports + 2 * layers * (points + 1)
    return size * (kept * width + 4 * points * inner)


def budget(model: CompiledModel) -> int:
    """Return how many bytes a run may take: a share of what JAX can have on a card."""
    found = model.device.memory_stats() if model.device.platform != "cpu" else None
    if not found:
        return LAPTOP.program
    free = free_for_jax(found, model.device.local_hardware_id or 0)
    return max(LAPTOP.program, Budget.share(free).program)


def _points_at_once(runner: Runner, points: Sequence[float], model: CompiledModel) -> int:
    """Return how many points are run together with one example: as many as fit, about evenly."""
    longest = max(pair.longest * len(pair.runs) for pair in runner.pairs)
    alone, more = (_per_token(runner, n) * longest for n in (1, 2))
    fit = 1 + max(0, (budget(model) - alone) // max(1, more - alone))
    groups = -(-len(points) // min(len(points), fit))
    return -(-len(points) // groups)


def _examples_at_once(runner: Runner, points: int, model: CompiledModel) -> int:
    longest = max(pair.longest * len(pair.runs) for pair in runner.pairs)
    fit = budget(model) // (_per_token(runner, points) * longest)
    return max(1, min(len(runner.pairs), fit))


def base_of(values: Any, model: CompiledModel, chunk: PairChunk) -> Carries:
    """Put what ablated edges carry, by layer, as the program takes it."""
    plan, sizes = model.plan, chunk.sizes

    def fit(x: torch.Tensor, lead: int) -> torch.Tensor:  # [..., B, T, …] to the padded shape
        runs, length = sizes.runs - x.shape[lead], sizes.length - x.shape[lead + 1]
        behind = [0] * (2 * (x.dim() - lead - 2))
        return torch.nn.functional.pad(x, (*behind, 0, length, 0, runs))

    posts = values.post or [None] * len(values.z)
    wrote = [
        Wrote(fit(z, 0), fit(post, 0) if _there(post) else None, fit(mlp, 1))
        for z, post, mlp in zip(values.z, posts, values.mlp, strict=True)
    ]
    given = [fit(x, 0) for x in values.given]
    wide = torch.float64 if values.sources.dtype == torch.float64 else torch.float32
    tree = Carries(
        fit(values.sources, 1),
        tuple(stack_run(run, given) for run in plan.runs) if given else None,
        tuple(stack_run(run, wrote) for run in plan.runs),
    )
    found: Carries = jax.tree_util.tree_map(
        lambda x: to_array(x.to(wide), model.device),
        tree,
        is_leaf=lambda x: isinstance(x, torch.Tensor),
    )
    return found


def _there(post: torch.Tensor | None) -> bool:
    return post is not None and post.shape[-1] > 0


@contextmanager
def precision(model: LiftedModel) -> Iterator[None]:
    """Multiply in the type of the factors, and in float64 what is float64; keep what is compiled.

    Compiled programs are kept in the user's cache folder.
    """
    _keep_compiled()
    wide = model.dtype == torch.float64
    with jax.enable_x64(wide), jax.default_matmul_precision("highest"):
        yield


def _keep_compiled() -> None:
    """Have JAX keep compiled programs in the user's cache folder, unless it is told where."""
    if jax.config.jax_compilation_cache_dir is not None:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "edgewise" / "compiled"))
