"""What a discovery asks for, checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..graphs.errors import EdgewiseError

if TYPE_CHECKING:
    from ..discovery.registry import Method
    from ..graphs.scores import Scores


@dataclass(frozen=True)
class Selection:
    """Say which edges of a scoring method are kept: at most one of the first three.

    Args:
        top: this many of largest |score|.
        above: those whose |score| is at least this.
        faithfulness: as few of largest |score| as reach this faithfulness.
        signed: by the scores themselves, not |score|: edges that work against the task come last.

    Raises:
        EdgewiseError: two are given, or `signed` alone, or a value makes no sense.
    """

    top: int | None = None
    above: float | None = None
    faithfulness: float | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        given = [key for key in self.as_dict() if key != "signed"]
        if self.signed and not given:
            raise EdgewiseError(
                "signed says which scores count as large, but nothing says how many edges to keep; "
                "accepted: top, above or faithfulness beside it, of a method that scores all edges."
            )
        if len(given) > 1:
            raise EdgewiseError(
                f"{' and '.join(given)} are given together; accepted: one way to select edges."
            )
        if self.top is not None and self.top < 1:
            raise EdgewiseError(f"top is {self.top}; accepted: a whole number from 1 up.")
        if self.above is not None and not 0 <= self.above < float("inf"):
            raise EdgewiseError(f"above is {self.above}; accepted: a number from 0 up.")
        if self.faithfulness is not None and not 0 < self.faithfulness <= 1:
            raise EdgewiseError(
                f"faithfulness is {self.faithfulness}; accepted: a number above 0, up to 1."
            )

    def as_dict(self) -> dict[str, float]:
        """Return what is given, under its name.

        >>> Selection(top=200).as_dict()
        {'top': 200}
        """
        return {k: v for k, v in vars(self).items() if v is not None and v is not False}


@dataclass(frozen=True, eq=False)
class Start:
    """Hold scores that a method starts from, and what a circuit file says of them."""

    scores: Scores
    about: Mapping[str, Any]


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
    from ..patching.ablations import get_ablation
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
