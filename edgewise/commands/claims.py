"""What `evaluate` and `discover` print of tests, the worst case and a control; their options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from . import show
from .accepted import COUNT, Number, WholeNumber, all_of, option

if TYPE_CHECKING:
    from ..experiment.spec import EvaluationSpec
    from ..steps.claims.control import Control
    from ..steps.claims.hypotheses import HypothesisTests
    from ..steps.claims.rivals import Rivals
    from ..steps.claims.worst import WorstCase
    from ..steps.evaluate import Evaluated
    from .flags import Flags

SHOWN = 12
"""How many edges are named of those that all circuits share."""

control_option = option(
    "--control",
    "The same discovery in a copy of the model with its weights redrawn, beside this one.",
)

rivals_options = all_of(
    option(
        "--rivals N",
        "N further circuits, found with a penalty on edges of those before: what all share, and "
        "what only some need.",
        type=COUNT,
    ),
    option(
        "--penalty P",
        "[--rivals] An edge that k circuits before have counts for 1/(1 + P k) of its worth; inf: "
        "it cannot be used again. Default 1.",
        type=Number(0),
    ),
)

claims_options = all_of(
    option(
        "--tests",
        "Five tests of the circuit (Shi et al. 2024), each with its p-value and what it means.",
    ),
    option("--draws N", "Random circuits and edges the tests draw; default 99.", type=COUNT),
    option(
        "--draw-seed N",
        "Decides what random circuits, tests, worst case and control draw; default 0.",
        type=WholeNumber(0),
    ),
    option(
        "--worst",
        "The worst pairing of clean and corrupted prompts, and the worst gates of discarded "
        "edges, that are found.",
    ),
    control_option,
    rivals_options,
)


def check_penalty(flags: Flags) -> None:
    """Refuse a penalty where no rivals are asked for."""
    if flags["penalty"] is not None and flags["rivals"] is None:
        raise click.UsageError("--penalty is of rivals; give --rivals N too, or leave it out.")


def announce(edges: int, spec: EvaluationSpec) -> None:
    """Say on standard error, before it is run, what is asked for and takes long."""
    for words in _cost(edges, spec):
        show.aside(words)


def _cost(edges: int, spec: EvaluationSpec) -> Iterator[str]:
    from ..steps.claims.hypotheses import circuits_needed
    from ..steps.claims.worst import PAIRINGS, STEPS

    if spec.tests:
        yield f"tests: {circuits_needed(edges, spec.draws):,} circuits are run"
    if spec.worst:
        yield (
            f"worst case: up to {PAIRINGS} pairings of each prompt are run, and {2 * STEPS} "
            "gradients of all edges taken"
        )
    if spec.control:
        yield "control: the discovery is repeated in a copy of the model"
    if spec.rivals:
        yield f"rivals: the discovery is repeated {spec.rivals:,} times, apart from those before"


def print_claims(found: Evaluated) -> None:
    """Print what a circuit was put to."""
    if found.tests is not None:
        _tests(found.tests)
    if found.worst is not None:
        _worst(found.worst)
    if found.control is not None:
        show.line()
        show.facts(*_control_facts(found.control))
    if found.rivals is not None:
        _rivals(found.rivals)


def print_repeated(measures: Mapping[str, Any]) -> None:
    """Print the control and the rivals that a circuit file's measures tell of, if there are any."""
    from ..steps.claims.control import Control
    from ..steps.claims.rivals import Rivals

    if "control" in measures:
        show.facts(*_control_facts(Control.from_dict(measures["control"])))
        show.line()
    if "rivals" in measures:
        _rivals(Rivals.from_dict(measures["rivals"]))
        show.line()


def _tests(found: HypothesisTests) -> None:
    rows = [(one.test, one.p, one.draws or None, one.seen) for one in found.tests]
    title = f"tests, by {found.metric} on {found.prompts}"
    show.table(("test", "p", "draws", "seen"), rows, title=title, left=(0, 3))
    show.line()
    told = ("templates", found.few_templates)
    show.facts(*((one.test, one.means) for one in found.tests), told)


def _worst(found: WorstCase) -> None:
    show.line()
    show.line(f"worst case, by the loss ({found.metric})")
    show.facts(*_worst_facts(found))
    if found.pairings is not None:
        rows = [
            (one.clean, one.corrupted, one.loss_full, one.loss_circuit, one.excess)
            for one in found.pairings.worst
        ]
        heads = ("clean of pair", "corrupted of", "full model", "circuit", "excess")
        show.table(heads, rows, title="worst pairings", left=())
    if found.gates is not None and found.gates.edges:
        edges = [(str(one.edge), one.gate, one.fall) for one in found.gates.edges]
        columns = ("discarded edge", "gate", "loss falls without it by")
        show.table(columns, edges, title="worst gates")


def _worst_facts(found: WorstCase) -> Iterator[tuple[str, object]]:
    f = show.ratio
    yield "full model, no edge", f"{found.loss_full:.4g}, {found.loss_empty:.4g}"
    yield "circuit", f"{found.loss_circuit:.4g}, faithfulness {f(found.faithfulness)}"
    if (pairs := found.pairings) is not None:
        yield "excess, these pairs", f"{pairs.mean:.4g} on average above the full model"
        yield (
            f"{pairs.tried:,} of {pairs.possible:,} pairings",
            f"{pairs.mean_tried:.4g} on average, 95% below {pairs.quantile_95:.4g}, largest "
            f"{pairs.largest:.4g}",
        )
    if (gates := found.gates) is not None:
        yield "worst gates", f"{gates.loss:.4g}, faithfulness {f(gates.faithfulness)}"
        yield f"{gates.opened:,} of them kept", f"{gates.loss_opened:.4g}, as a circuit"
    for words in found.left_out:
        yield "not searched", words


def _rivals(found: Rivals) -> None:
    """Print how the circuits do, what they share, and what only some of them have."""
    rows = [
        (
            "the circuit" if number == 0 else f"rival {number}",
            len(one.edges),
            one.new,
            show.ratio(one.faithfulness),
            show.ends(one.interval),
        )
        for number, one in enumerate(found.circuits)
    ]
    where = "held-out pairs" if found.held_out else "pairs, those of the search"
    title = f"rivals, penalty {found.penalty:g}, by {found.metric} on {found.examples:,} {where}"
    show.table(("circuit", "edges", "new", "faithfulness", "95%"), rows, title=title)
    counts = found.counts
    once = sum(count == 1 for count in counts.values())
    show.line()
    show.facts(
        (f"all {len(found.circuits)} share", _listed(found.shared)),
        ("only some need", f"{len(found.only_some):,} edges, {once:,} of them one circuit alone"),
        ("ended", found.ended),
    )


def _listed(edges: Sequence[tuple[str, str]]) -> str:
    """List the first edges by name, and how many there are."""
    if not edges:
        return "no edge"
    names = ", ".join(f"{sender}->{port}" for sender, port in edges[:SHOWN])
    more = f", … of {len(edges):,}" if len(edges) > SHOWN else ""
    return f"{names}{more}"


def _control_facts(found: Control) -> Iterator[tuple[str, object]]:
    """Yield what a control found, as lines of name and value."""
    if found.refused is not None:
        yield "control, redrawn", f"no circuit: {found.refused}"
        return
    words = "undefined: full model and no edge differ by less than chance"
    if found.faithfulness is not None:
        words = f"{found.faithfulness:.3f} {show.ends(found.interval)}".rstrip()
    yield "control, redrawn", f"{found.said}; faithfulness {words}"
    values = (found.value_full, found.value_circuit, found.value_empty)
    numbers = ", ".join("-" if value is None else f"{value:.4g}" for value in values)
    yield "", f"{found.metric} full, circuit, no edge: {numbers}"
    yield (
        "",
        f"Jaccard with the circuit {found.jaccard:.3f}, by chance {found.expected_jaccard:.3f}",
    )
