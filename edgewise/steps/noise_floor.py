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

if TYPE_CHECKING:
    from ..experiment.spec import DiscoverySpec
    from ..graphs.diff import CircuitDiff
    from .repeat import PromptSets, Repeats


def find_floor(
    diff: CircuitDiff,
    repeats: tuple[Repeats, Repeats],
    asked: DiscoverySpec,
    sets: PromptSets,
    level: float,
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
    name, options = asked.scored_by
    return NoiseFloor(
        repetitions=len(a),
        examples=sets.examples,
        seeds_a=sets.seeds_a,
        seeds_b=sets.seeds_b,
        prompts="new seeds" if sets.seeds_a else "disjoint groups of the file's pairs",
        method=asked.method,
        scores=name,
        scores_options=options,
        metric=asked.metric,
        ablation=asked.ablation,
        level=level,
        edges_tested=graph.edge_count,
        test=(
            f"Welch's t-test of the {name} scores of {len(a)} repetitions in A and {len(b)} in B, "
            f"each on {sets.examples} pairs of its own, for each of the {graph.edge_count} edges; "
            "q-values after Benjamini and Hochberg over all of them"
        ),
        jaccard=label_permutation(jaccard_matrix(np.concatenate([a.kept, b.kept])), len(a)),
        edges=tuple(rows),
    )
