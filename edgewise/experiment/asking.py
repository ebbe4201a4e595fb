"""What a discovery asks for, checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graphs.errors import EdgewiseError
from .spec import Selection, Start

if TYPE_CHECKING:
    from ..discovery.registry import Method


def read_start(path: str) -> Start:
    """Read what a method starts from: a file of scores, or the kept edges of a circuit.

    Kept edges that have no score in the circuit's file stand before all others.

    Raises:
        FileFormatError: the file is neither, or something in it is wrong.
    """
    import numpy as np

    from ..graphs.files import read_circuit, read_scores, scores_path
    from ..graphs.scores import Scores

    if str(scores_path(path)) == str(path):
        file = read_scores(path)
        scores, names = file.scores, (file.method, file.metric, file.ablation)
    else:
        circuit = read_circuit(path)
        values = np.nan if circuit.edge_scores is None else circuit.edge_scores
        kept = circuit.circuit.kept
        values = np.where(kept & np.isnan(values), np.inf, values)
        scores = Scores(circuit.circuit.graph, np.where(kept, values, np.nan))
        found = circuit.discovery
        names = (found["method"], found["metric"], found["ablation"])
    about = dict(zip(("method", "metric", "ablation"), names, strict=True))
    return Start(scores, {**about, "edges": int((~np.isnan(scores.values)).sum())})


@dataclass(frozen=True)
class Request:
    """Hold a discovery's method, options and selection, checked; nothing heavy is needed for it."""

    method: str
    options: Mapping[str, Any]
    metric: str
    ablation: str
    select: Selection


def default_metric(method: Method) -> str:
    """Return what a method measures unless told otherwise: searches `kl`, scores `logit_diff`."""
    return method.default_metric


def request(
    method: str,
    *,
    metric: str | None = None,
    ablation: str = "resample",
    options: Mapping[str, Any] | None = None,
    select: Selection | None = None,
    start: Start | None = None,
) -> Request:
    """Check what a discovery asks for, before a model is loaded, and fill in the defaults.

    >>> request("acdc", options={"threshold": 0.1}).metric
    'kl'

    Raises:
        UnknownName: no such method, option, metric or ablation.
        EdgewiseError: an option's value makes no sense, the method selects edges itself, or cannot
            start from scores.
    """
    from ..discovery.registry import get_method
    from ..patching.ablations.registry import get_ablation
    from ..patching.metrics.registry import get_metric

    chosen, select = get_method(method), select or Selection()
    values = chosen.check(options or {})
    metric = metric or default_metric(chosen)
    known_metric = get_metric(metric)
    if start is None:
        chosen.check_metric(known_metric)
    else:
        chosen.check_start()
    get_ablation(ablation)
    if chosen.selects and select.as_dict():
        name = next(iter(select.as_dict()))
        raise EdgewiseError(
            f"method '{method}' selects its edges itself, so {name} cannot be given; accepted: "
            f"its options ({', '.join(chosen.options)})."
        )
    return Request(method, values, metric, ablation, select)
