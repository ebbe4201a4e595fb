"""Score every edge on each example: what comparisons, errors and stability are computed from."""

from __future__ import annotations

import warnings

from ..discovery.meaning import Meaningless
from ..discovery.registry import get_method
from ..experiment.spec import ComputeSpec, DiscoverySpec
from ..graphs.calls.typed import typed
from ..graphs.errors import within_memory
from ..graphs.example_scores import ExampleScores
from ..patching.prompts.pairs import PromptPairs
from ..progress import Progress
from ..session import Session, make_runner


@typed
@within_memory()
def score_examples(
    session: Session,
    pairs: PromptPairs,
    spec: DiscoverySpec,
    compute: ComputeSpec | None = None,
    progress: Progress | None = None,
) -> ExampleScores:
    """Score every edge on each of the pairs, by the method of a discovery.

    Of a search it is the method whose scores stand in for it (`spec.scored_by`).

    Raises:
        EdgewiseError: the method gives no such scores, or the metric has no gradient for it.
    """
    name, options = spec.scored_by
    method = get_method(name)
    method.check_by_example()
    batch = (compute or ComputeSpec()).batch_size
    runner = make_runner(
        session, pairs, metric=spec.metric, ablation=spec.ablation, batch_size=batch,
        mlps=spec.mlps,
    )  # fmt: skip
    method.check_metric(runner.metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Meaningless)  # of one number an edge, not of its spread
        found = method(runner, progress, per_example=True, **options).examples
    assert found is not None  # of methods by example
    return found
