"""Learn the vectors of optimal ablation and note what led to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...graphs.calls.typed import typed
from ...patching.ablations.registry import ablations
from ...patching.engines import TORCH
from ...patching.prompts.pairs import PromptPairs
from ...progress import Progress
from ...session import Session, make_runner
from .blocks import circumstances, task_block

if TYPE_CHECKING:
    from ...graphs.graph import ComputationGraph
    from ...patching.ablations.learned.learning import Descent, Learned


@typed
@dataclass(frozen=True, eq=False)
class OptimalVectors:
    """One vector for each sender, what the model loses with it, and what led to them."""

    graph: ComputationGraph
    learned: Learned
    provenance: Mapping[str, object]

    @property
    def losses(self) -> list[tuple[str, float, float]]:
        """List each sender with the mean loss at its mean and at its vector."""
        both = zip(self.learned.before.tolist(), self.learned.after.tolist(), strict=True)
        return [(str(u), *pair) for u, pair in zip(self.graph.senders, both, strict=True)]

    @typed
    def write(self, path: str | Path) -> Path:
        """Write the vectors to a file that the ablation can name."""
        from ...patching.ablations.learned.vectors import write

        return write(path, self.graph, self.learned.values, self.provenance)


@typed
def learn_optimal(
    session: Session,
    pairs: PromptPairs,
    training: Descent | None = None,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> OptimalVectors:
    """Learn on prompt pairs what ablated edges out of each sender may best carry."""
    from ...patching.ablations.learned.learning import LOSS, Descent, learn

    training = training or Descent()
    session.certify(pairs)
    # none of the other's values is used; it is one that any prompts will do for
    kinds = ablations().values()
    other = next(one for one in kinds if not (one.needs_corrupted or one.aligned or one.takes))
    runner = make_runner(session, pairs, ablation=other.name, batch_size=batch_size)
    learned = learn(runner, training, progress)
    provenance = {
        "model": dict(session.model_block),
        "task": dict(task_block(pairs)),
        "training": asdict(training),
        "loss": {
            "of": LOSS,
            "at_means": float(learned.before.mean()),
            "learned": float(learned.after.mean()),
        },
        **circumstances(session, runner, TORCH),
    }
    return OptimalVectors(runner.graph, learned, provenance)
