"""`edgewise methods`: which methods there are, and what each is worth on a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..discovery.registry import get_method, scoring_method
from ..discovery.registry import methods as registered
from ..graphs.levels.nodes import EDGE, NODE
from . import options, show
from .accepted import COUNT, FILE, Known, WholeNumber, among, names_of, option, usage
from .flags import Flags, flag_name, with_flags
from .given import in_model, read_given

if TYPE_CHECKING:
    from ..discovery.registry import Method
    from ..experiment.spec import ComputeSpec
    from ..graphs.files import CircuitFile
    from ..graphs.files.exchange import Foreign
    from ..graphs.files.tables.methods import MethodsFile
    from ..session import Session
    from ..steps.claims.asked import AskedMethod, Asking, GivenScores

TITLES = {
    "circuits of the strongest edges: areas": ("CPR", "CMD"),
    "single edges against exact effects": ("Pearson", "rest", "Spearman", "top", "sign"),
    "likeness and cost": ("alike", "passes", "seconds", "MB"),
    "circuits that methods select themselves": ("edges", "f"),
}
"""The printed tables of one row a method, and their columns; a column's interval follows it."""


@click.command(short_help="List methods, or compare what they are worth on a task.")
@click.argument("about", required=False, type=Known(get_method), metavar="[NAME]")
@option(
    "--compare NAMES",
    lambda: (
        f"Methods to compare, with commas between; options: {scoring_method().name}:steps=10. "
        "A file with scores of all edges (a circuit's with --scores, NAME.scores.safetensors, "
        "or another tool's) is judged as a method is."
    ),
)
@option("--model MODEL", "[--compare] The model.", type=FILE)
@options.task_options(required=False, test=True)
@options.measure_options(searching=False)
@option(
    "--level NAME",
    "[--compare] What is scored: edge, or node (all edges out of a node together). Default: edge.",
    "compared_level",
    type=Known(among("level", (EDGE, NODE))),
)
@option("--sizes NUMBERS", "Numbers of edges to measure; default 50,200,1000; of nodes 10,30,100.")
@option(
    "--exact N",
    "Random edges about which exact questions are asked; default 300; 0: none are asked. Of nodes "
    "all are asked.",
    type=WholeNumber(0),
)
@option(
    "--top K",
    "And as many of each method's strongest edges; default 100; of nodes 20.",
    type=COUNT,
)
@option("--draw-seed N", "Decides which random edges; default 0.", type=WholeNumber(0))
@option("-o --output METHODS.json", "Write what was measured.", type=FILE)
@options.graph_options
@options.compute_options
@options.json_option
@with_flags
def methods(
    about: str | None,
    compare: str | None,
    model: str | None,
    flags: Flags,
    output: str | None,
    as_json: bool,
    compared_level: str | None,
    **measured: Any,
) -> None:
    """List the registered methods; with --compare tell what each is worth on a task.

    With a NAME: how that method goes, from which paper, at what cost, and when to take it.

    Of --compare: all see the same prompts. Circuits of their strongest edges are measured on others
    that are held out (CPR by score, more is better; CMD by |score|, less is better; always look at
    both, as faithfulness above 1 raises CPR), their scores are held against exact effects of the
    edges that any of them ranks high and of random ones, and random scores stand beside.
    """
    if compare is None:
        given = {
            "model": model, "output": output, "level": compared_level, **measured,
            **flags.only("task", "examples", "test", "metric", "ablation", "top", "draw_seed"),
        }  # fmt: skip
        if wrong := [name for name, value in given.items() if value is not None]:
            raise click.UsageError(
                f"{flag_name(wrong[0])} is for --compare, which names methods to compare; without "
                "any such option methods are listed."
            )
        _list(as_json) if about is None else _describe(get_method(about), as_json)
        return
    if about is not None:
        raise click.UsageError(
            f"'{about}' stands beside --compare; accepted: a method's name alone, which shows its "
            f"page, or --compare {about},… to compare."
        )
    from ..experiment.spec import DiscoverySpec, GraphSpec
    from ..graphs.files.tables.methods import TABLES, write_methods
    from ..progress import reporting
    from ..session import open_model, open_split
    from ..steps.claims.asked import AskedMethod, GivenScores
    from ..steps.claims.methods import compare_methods

    task = flags.task()
    if model is None or task is None:
        raise click.UsageError("--compare needs --model and --task, which it compares on.")
    asked, asking = _asked(compare), _asking(flags, **measured)
    own = flags.only("metric", "ablation")
    spec = DiscoverySpec.usual(
        **own, **({} if compared_level is None else {"level": compared_level})
    )
    compute = flags.compute()
    if output is not None:
        options.claim(output)
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, flags.over(GraphSpec()), compute, progress=progress)
        pairs = open_split(session, task)
        show.understood(pairs.discovery.origin)
        every = [
            one if isinstance(one, AskedMethod | GivenScores) else _scores(one, session, compute)
            for one in asked
        ]
        found = compare_methods(session, pairs, every, spec, asking, compute, progress)
    if output is not None:
        write_methods(output, found)
    if as_json:
        show.emit({**found.as_dict(), "written": output}, rows=TABLES)
        return
    _print(found)
    show.written(output)


def _list(as_json: bool) -> None:
    """Print the registered methods."""
    rows = [
        {
            "method": name,
            "gives": "a circuit" if one.selects else "scores",
            "engines": ", ".join(one.engines),
            "what": one.summary,
        }
        for name, one in registered().items()
    ]
    if as_json:
        show.emit({"methods": rows}, rows=("methods",))
        return
    heads = ("method", "gives", "engines", "what")
    show.table(heads, [tuple(row.values()) for row in rows], left=range(4))


def _describe(method: Method, as_json: bool) -> None:
    """Print the page of a method, and its options."""
    from ..discovery.registry import Page

    page = method.page or Page((), "", "", "")
    if as_json:
        keys = ("steps", "paper", "cost", "when")
        told = {key: getattr(page, key) for key in keys}
        options_of = {
            key: {"meaning": one.help, "default": one.default}
            for key, one in method.options.items()
        }
        show.emit({"method": method.name, "what": method.summary, **told, "options": options_of})
        return
    show.sentences((f"{method.name}: {method.summary}.",))
    show.sentences(f"{number}. {step}" for number, step in enumerate(page.steps, 1))
    show.line()
    show.facts(
        *((key, text) for key in ("paper", "cost", "when") if (text := getattr(page, key))),
        ("gives", "a circuit" if method.selects else "scores"),
        ("engines", ", ".join(method.engines)),
    )
    if method.options:
        show.line()
        show.facts(*((flag_name(key), one.help) for key, one in method.options.items()))


def _asked(text: str) -> list[AskedMethod | CircuitFile | Foreign | GivenScores]:
    """Read the methods that are named, and the files among them."""
    from ..graphs.files import read_scores, scores_path
    from ..steps.claims.asked import AskedMethod, GivenScores

    found: list[AskedMethod | CircuitFile | Foreign | GivenScores] = []
    with usage():
        for one in names_of("compare", text):
            path = Path(one).expanduser()
            if one.split(":")[0] in registered() or not path.exists():
                found.append(AskedMethod.parse(one))
            elif path.suffix == scores_path(one).suffix:
                found.append(GivenScores(path.name.split(".")[0], read_scores(path).scores))
            else:
                found.append(read_given(one))
    return found


def _scores(given: CircuitFile | Foreign, session: Session, compute: ComputeSpec) -> GivenScores:
    """Return the scores of a file, called as the file is."""
    from ..graphs.errors import EdgewiseError
    from ..graphs.files import CircuitFile, read_scores_of
    from ..graphs.files.exchange.mib import IMPORTANCES
    from ..steps.claims.asked import GivenScores

    path = Path(str(given.path))
    label = path.name
    if path.stem == IMPORTANCES:  # as of every method of a submission: its folders tell them apart
        label = "/".join(path.absolute().parts[-3:-1])
    if isinstance(given, CircuitFile):
        return GivenScores(label, read_scores_of(given).scores)
    made = in_model(given, session, compute, curve=True)
    if made.scores is None:
        raise EdgewiseError(f"{given.path} has no scores to judge; accepted: files with scores.")
    return GivenScores(label, made.scores.scores)


def _asking(flags: Flags, sizes: str | None, exact: int | None) -> Asking:
    from ..steps.claims.asked import Asking

    given = flags.only("top", "draw_seed")
    if exact is not None:
        given["drawn"] = exact
    if sizes is not None:
        try:
            given["sizes"] = tuple(int(one) for one in sizes.split(","))
        except ValueError:
            raise click.UsageError(
                f"--sizes is '{sizes}'; accepted: whole numbers with commas between, as in 50,200."
            ) from None
    return Asking(**given)


def _print(found: MethodsFile) -> None:
    how, task = found.comparison, found.task
    where = "held-out pairs" if how["held_out"] else "pairs, those that methods saw"
    show.facts(
        ("model", found.model["name"]),
        ("task", f"{task['name']}, {task['examples']:,} pairs"),
        (
            "measured",
            f"{how['metric']}, {how['ablation']} ablation, on {how['examples']:,} {where}",
        ),
    )
    what = how.get("level", EDGE)
    for title, columns in TITLES.items():
        _table(found.methods, columns, title.replace(EDGE, what))
    names = [row["method"] for row in found.methods]
    sizes = sorted(
        (row for row in found.sizes if row["edges"] in how["sizes"]),
        key=lambda row: (names.index(row["method"]), row["edges"]),
    )
    title = f"faithfulness of so many strongest {what}s"
    _table(sizes, ("edges", "signed", "absolute"), title, {"edges": f"{what}s"})
    show.line()
    show.sentences(_read(found))


def _table(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    title: str,
    called: Mapping[str, str] | None = None,
) -> None:
    """Print rows and columns that have a value, each with its interval, if any has one."""
    heads, cells = ["method"], [[str(row["method"])] for row in rows]
    columns = [name for name in columns if any(row[name] is not None for row in rows)]
    for name in columns:
        heads.append((called or {}).get(name, name))
        ends = [_ends(row, name) for row in rows]
        for line, row in zip(cells, rows, strict=True):
            line.append(_cell(name, row[name]))
        if any(ends):
            heads.append("95%")
            for line, words in zip(cells, ends, strict=True):
                line.append(words)
    shown = [
        line
        for line, row in zip(cells, rows, strict=True)
        if any(row[name] is not None for name in columns)
    ]
    if shown:
        show.table(heads, shown, title=title)


def _ends(row: Mapping[str, object], name: str) -> str:
    """Write the ends of a column's interval; nothing where there are none."""
    before = {"f": ""}.get(name, f"{name} ")
    return show.row_ends(row, before) or show.row_ends(row, f"{name}_")


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    assert isinstance(value, int | float)
    if name in ("edges", "MB"):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if name in ("seconds", "passes") else show.ratio(float(value))


def _read(found: MethodsFile) -> Iterator[str]:
    """Say what the tables rest on."""
    how, exact = found.comparison, found.comparison["asked"]
    what = how.get("level", EDGE)
    if how.get("undefined"):
        yield "CPR and CMD are undefined: full model and no edge do not differ beyond chance."
    if exact is not None and what == EDGE:
        yield (
            f"Exact effects of {exact['certain'] + exact['drawn']:,} of "
            f"{found.graph.edge_count:,} edges: the {exact['certain']:,} that a method has among "
            f"its strongest, and {exact['drawn']:,} random ones, weighted for the rest. `rest` is "
            f"Pearson without {exact['largest']}; `top` and `sign` are of the {exact['top']:,} "
            f"largest effects, of which {exact['missed']:.0f} more may not have been asked."
        )
    elif exact is not None:
        yield (
            f"Exact effects of all {exact['certain']:,} nodes. `rest` is Pearson without "
            f"{exact['largest']}; `top` and `sign` are of the {exact['top']:,} largest effects."
        )
    if what == EDGE:
        yield (
            f"`alike` is the mean Jaccard index of circuits of {how['alike_edges']} edges on "
            "resampled prompts; passes are of the original model on the discovery's pairs, with "
            "scores on each example where a method gives them."
        )
    else:
        yield "Passes are of the original model on the discovery's pairs."
    if not how["held_out"]:
        yield "Nothing is held out, so these figures flatter every method."
