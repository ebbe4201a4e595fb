"""The noise floor of a diff: what differs between two models by more than prompts make it differ?

1. The discovery is repeated R times in each model on independent sets of prompts (`repeating`).
2. Every edge of the graph is tested on the scores of the repetitions (`discovery.significance`).
3. An edge that only one circuit keeps *changed* if its q-value is below the level; the others are
   within the noise, whatever the two circuits say. Shared edges whose score changed, and edges
   that neither circuit keeps, are listed as well.
4. Beside each edge stands its survival: the share of repetitions whose circuit keeps it; and beside
   the circuits' overlap that of repetitions in one model, and of repetitions in different ones.

`graphs.comparison.NoiseFloor` holds it all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..graphs.comparison import FloorRow, NoiseFloor
from ..graphs.errors import EdgewiseError

if TYPE_CHECKING:
    from ..graphs.diff import CircuitDiff
    from ..graphs.files import CircuitFile
    from ..session import Progress
    from .compare import Source
    from .repeat import PromptSets, Recipe, Repeats

LEVEL = 0.05
"""The share of false changes that is accepted, unless told otherwise."""


def noise_floor(
    file_a: CircuitFile,
    file_b: CircuitFile,
    repetitions: int,
    *,
    level: float = LEVEL,
    models: tuple[Source, Source] = (None, None),
    batch_size: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> NoiseFloor:
    """Repeat the discovery of two circuits in their models; return their noise floor.

    One model is in memory at a time.

    Args:
        file_a, file_b: circuits found in the same way, on equal graphs.
        repetitions: how often in each model.
        level: of q-values, for the edges listed beside those of the two circuits.
        models: references or open sessions in place of the models the files name.
        batch_size, device: how to compute.
        progress: told what is done.

    Raises:
        EdgewiseError: the circuits were found in different ways, or the prompts are too few.
        GraphMismatch: a model is not of its circuit's shape.
    """
    from ..graphs.files import diff_files
    from .compare import Asked, look_closer

    asked = Asked(repetitions=repetitions, level=level, batch_size=batch_size, device=device)
    found, _ = look_closer(diff_files(file_a, file_b), (file_a, file_b), asked, models, progress)
    assert found.noise_floor is not None
    return found.noise_floor


def check_level(level: float) -> float:
    """Refuse a level that is none.

    Raises:
        EdgewiseError: not between 0 and 1.
    """
    if not 0 < level < 1:
        raise EdgewiseError(f"level is {level}; accepted: a number between 0 and 1, such as 0.05.")
    return level


def find_floor(
    diff: CircuitDiff,
    repeats: tuple[Repeats, Repeats],
    recipe: Recipe,
    sets: PromptSets,
    level: float = LEVEL,
) -> NoiseFloor:
    """Test every edge on the repetitions in both models."""
    from ..discovery.significance import compare_edges, jaccard_matrix, label_permutation

    a, b = repeats
    graph = diff.a.graph
    test = compare_edges(graph, a.scores, b.scores)
    columns = (a.kept.mean(0), b.kept.mean(0), test.mean_a, test.mean_b, test.p, test.q)
    listed = diff.a.kept | diff.b.kept | (np.nan_to_num(test.q, nan=1.0) < level)
    rows = []
    for row, sender in np.argwhere(listed):
        edge = graph.edge_at(row, sender)
        numbers = (float(column[row, sender]) for column in columns)
        rows.append(FloorRow(str(edge.sender), str(edge.port), *numbers))
    name, options = recipe.scored_by
    return NoiseFloor(
        repetitions=len(a),
        examples=sets.examples,
        seeds_a=sets.seeds_a,
        seeds_b=sets.seeds_b,
        prompts="new seeds" if sets.seeds_a else "disjoint groups of the file's pairs",
        method=recipe.method,
        scores=name,
        scores_options=options,
        metric=recipe.metric,
        ablation=recipe.ablation,
        level=check_level(level),
        edges_tested=graph.edge_count,
        test=(
            f"Welch's t-test of the {name} scores of {len(a)} repetitions in A and {len(b)} in B, "
            f"each on {sets.examples} pairs of its own, for each of the {graph.edge_count} edges; "
            "q-values after Benjamini and Hochberg over all of them"
        ),
        jaccard=label_permutation(jaccard_matrix(np.concatenate([a.kept, b.kept])), len(a)),
        edges=tuple(rows),
    )
