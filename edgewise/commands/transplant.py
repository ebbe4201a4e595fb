"""`edgewise transplant`: what parts of one model carry of its gain over another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ..patching.metrics.registry import default_metric, metrics
from . import options, show
from .accepted import COUNT, FILE, METRIC, Known, among, names_of, option, usage
from .flags import Flags, with_flags
from .given import in_model, read_all

if TYPE_CHECKING:
    from ..graphs.circuit import Circuit
    from ..graphs.files import TransplantFile
    from ..graphs.files.transplant import GainOfSide, NodeShare, Origin, ShareOfSide
    from ..patching.prompts.pairs import PromptPairs
    from ..steps.transplant import Choice

SHOWN = 15
"""How many of the single nodes are printed."""

DIRECTIONS = {
    "b-into-a": "B into A: B's values in A's run; what carries the gain",
    "a-into-b": "A into B: A's values in B's run; what loses the gain",
}
VERBS = {"b-into-a": "carried", "a-into-b": "lost"}


def _metric_help() -> str:
    compare = ", ".join(name for name, one in metrics().items() if one.needs_clean_logits)
    return (
        f"As in `edgewise evaluate`; {compare} compares with the model that gives. Default "
        f"{default_metric(searching=False)}."
    )


@click.command(short_help="Put one model's activations into another: what carries its gain.")
@click.argument("a", type=FILE, metavar="A")
@click.argument("b", type=FILE, metavar="B")
@options.task_options(required=True, test=True)
@option("--metric NAME|EXPRESSION", _metric_help, type=METRIC)
@option("--nodes NAMES", "Nodes that take the values, as in a5.h1,m7.")
@option(
    "--edges EDGE",
    "Edges, such as 'a0.h1->a2.h3<q>', quoted for the shell. Repeat for more.",
    multiple=True,
)
@option("--circuit CIRCUIT.json", "The edges of a circuit.", type=FILE)
@option(
    "--greedy N",
    "Rank single nodes, then add up to N, each time the one that carries most.",
    "most_nodes",  # `greedy` is a way to select edges
    type=COUNT,
)
@option("--share S", "Stop adding when this share is carried, as in 0.9.", type=float)
@option(
    "--beam M",
    "Of the single nodes the M best are tried in each greedy step; default 32.",
    type=COUNT,
)
@option("--among CIRCUIT.json", "Rank the nodes of this circuit only.", type=FILE)
@option(
    "--direction NAME",
    "b-into-a (default), or a-into-b: A's values in B's run.",
    type=Known(among("direction", DIRECTIONS)),
    default="b-into-a",
)
@options.percent_option
@options.batch_option
@option("-o --output FILE.json", "Write everything that was measured.", type=FILE)
@options.graph_options
@options.compute_options
@options.json_option
@with_flags
def transplant(
    a: str, b: str, flags: Flags, direction: str, output: str | None, as_json: bool, **parts: Any
) -> None:
    """Run A on a task with the activations that chosen nodes or edges have in B.

    A and B are models of one shape, such as a model and a fine-tuned variant of it; they get the
    same prompts. What is carried is the share of B's gain over A that A has with them. Without
    a choice all nodes are ranked, each alone.
    """
    from ..experiment.spec import GraphSpec
    from ..graphs.files import CircuitFile, write_transplant
    from ..graphs.files.transplant import ROWS
    from ..progress import reporting
    from ..steps.stored import stored_pairs
    from ..steps.transplant import transplant as measure

    task, compute = flags.task(), flags.compute()
    assert task is not None  # click requires it
    parts["greedy"] = flags["greedy"]  # elsewhere a selection of edges has that name
    files = {key: parts[key] for key in ("circuit", "among") if parts[key] is not None}
    with usage():
        _choice(parts, {})
    given = dict(zip(files, read_all(parts["percent"], *files.values()), strict=True))
    options.claim(output, *files.values())
    with reporting(on_prompts=show.understood) as progress:
        progress.say(f"comparing {a} and {b}")
        circuits: dict[str, Circuit] = {}
        found_on: PromptPairs | None = None
        tried = flags.only("try_family")
        for key, one in given.items():
            if isinstance(one, CircuitFile):
                circuits[key], found_on = one.circuit, stored_pairs(one)
            else:  # on the graph of A, which is B's
                circuits[key] = in_model(one, a, compute, progress, **tried).file.circuit
        choice, graph = _choice(parts, circuits), flags.over(GraphSpec())
        choice = replace(choice, found_on=found_on)
        for circuit in circuits.values():
            graph = GraphSpec.of_graph(circuit.graph, graph.try_family)
        found = measure(
            a, b, task, choice, direction=direction, progress=progress, metric=flags["metric"],
            **vars(graph), **vars(compute),
        )  # fmt: skip
    if output is not None:
        write_transplant(output, found)
    if as_json:
        show.emit({**found.as_dict(), "written": output}, rows=ROWS)
        return
    _print(found)
    show.written(output)


def _choice(given: Mapping[str, Any], circuits: Mapping[str, Circuit]) -> Choice:
    from ..graphs.errors import EdgewiseError
    from ..steps.transplant import BEAM, Choice

    if given["beam"] is not None and given["most_nodes"] is None:
        raise EdgewiseError("--beam is of --greedy; give that too.")
    nodes = () if given["nodes"] is None else tuple(names_of("nodes", given["nodes"]))
    edges = tuple(name for text in given["edges"] for name in names_of("edges", text))
    greedy, share, beam = given["most_nodes"], given["share"], given["beam"] or BEAM
    return Choice(
        nodes=nodes, edges=edges, greedy=greedy, share=share, beam=beam,
        circuit=circuits.get("circuit"), among=circuits.get("among"),
    )  # fmt: skip


def _print(found: TransplantFile) -> None:
    show.facts(*_facts(found))
    verb, metric = VERBS[found.transplant["direction"]], found.transplant["metric"]
    names = ["node", metric, verb, "95%", *["in sample"] * (found.held_out is not None)]
    told = found.held_out or found.in_sample
    if told is None:
        return
    if told.singles:
        rows = list(_rows(found, "singles"))
        more = f", the first {SHOWN} of {len(rows)}" if len(rows) > SHOWN else ""
        show.table(names, rows[:SHOWN], f"single nodes{more}")
    if told.greedy:
        alone = {str(one.node): percent(one.carried) for one in told.singles}
        steps = [(f"+ {row[0]}", *row[1:], alone[row[0]]) for row in _rows(found, "greedy")]
        names[2] = f"{verb} together"
        show.table([*names, "alone"], steps, "one after the other")


def _rows(found: TransplantFile, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the nodes of a ranking: what was measured held out, and in sample beside it."""
    held = found.held_out is not None
    told: Sequence[NodeShare] = getattr(found.held_out or found.in_sample, name)
    for own, one in zip(getattr(found.in_sample, name), told, strict=True):
        row = (str(one.node), f"{one.value:.4f}", percent(one.carried), _ends(one.interval))
        yield (*row, percent(own.carried)) if held else row


def _facts(found: TransplantFile) -> Iterator[tuple[str, object]]:
    from .evaluate import shown_task, why_not_held_out

    measures, how, side = found.measures, found.transplant, found.measured_on
    metric, direction = how["metric"], how["direction"]
    first, own = measures[side], measures["in_sample"]

    def beside(value: str) -> str:
        return f"; in sample {value}" if side == "held_out" else ""

    in_a, in_b, gained = f"{own['a']:.4g}", f"{own['b']:.4g}", f"{own['gain']:+.4g}"
    yield "A", f"{_of(found.a)}: {metric} {first['a']:.4g}{beside(in_a)}"
    yield "B", f"{_of(found.b)}: {metric} {first['b']:.4g}{beside(in_b)}"
    yield "task", shown_task(found.task)
    if side == "in_sample":
        yield "held out", why_not_held_out(found.task)
    yield "direction", DIRECTIONS[direction]
    low, high = first["gain_interval"] or (None, None)
    around = "" if low is None else f" [{low:+.3g}, {high:+.3g}]"
    yield "gain", f"{first['gain']:+.4g}{around}{beside(gained)}"
    carried = of_the_gain(first, direction, first) + beside(percent(own["carried"]))
    yield "all nodes", f"{metric} {first['everything']:.4g}, {carried}"
    chosen = found.chosen
    if found.edges is not None and chosen is not None:
        nodes = f"{', '.join(chosen['nodes'])}: " if chosen["nodes"] else ""
        yield "chosen", f"{nodes}{len(found.edges):,} edges"
        told = chosen[side]
        carried = of_the_gain(told, direction, first) + beside(
            percent(chosen["in_sample"]["carried"])
        )
        yield "with them", f"{metric} {told['value']:.4g}, {carried}"


def _of(origin: Origin) -> str:
    return str(origin["model"]["name"])


def of_the_gain(found: GainOfSide | ShareOfSide, direction: str, measured: GainOfSide) -> str:
    """Say which share of the gain is carried, or lost, or why there is none.

    >>> gain = {"gain": 2.0, "gain_error": 0.5}
    >>> of_the_gain({"carried": 0.314, "interval": [0.2, 0.4]}, "b-into-a", gain)
    '31.4% of the gain carried [20.0%, 40.0%]'
    >>> of_the_gain({"carried": None, "interval": None}, "b-into-a", {**gain, "gain": 0.5})
    'undefined: the gain is 0.5, two standard errors are 1'
    """
    share, error = found["carried"], measured["gain_error"]
    if share is not None:
        said = f"{percent(share)} of the gain {VERBS[direction]}"
        return f"{said} {_ends(found['interval'])}".rstrip()
    if error is None or abs(measured["gain"]) >= 2 * error:
        return "there is no gain to carry: both models measure the same"
    gain = f"{abs(measured['gain']):.2g}"
    return f"undefined: the gain is {gain}, two standard errors are {2 * error:.2g}"


def _ends(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"[{percent(interval[0])}, {percent(interval[1])}]"


def percent(share: float | None) -> str:
    """Write a share, which can be negative or more than all.

    >>> percent(0.314), percent(-1.5), percent(None)
    ('31.4%', '-150.0%', 'undefined')
    """
    return "undefined" if share is None else f"{100 * share:.1f}%"
