"""`edgewise benchmark`: methods, or circuits that others found, on known circuits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..discovery.registry import scoring_method
from ..graphs.errors import EdgewiseError
from ..graphs.levels.nodes import NODE
from . import options, show
from .accepted import FILE, WholeNumber, names_of, option, usage
from .given import in_model, read_given

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile
    from ..graphs.files.tables.known import KnownFile, ScoredRow
    from ..known.cases import KnownCase
    from ..steps.claims.asked import AskedMethod

FOUND_ALL = 1.0 - 1e-9


@click.command(short_help="Score methods, or circuits of others, where the answer is known.")
@click.argument("folder", required=False, type=FILE, metavar="[DIR]")
@option(
    "--methods NAMES",
    lambda: (
        f"Methods to score, with commas between, options as in {scoring_method().name}:steps=10; "
        "default: all that score or choose edges."
    ),
)
@option("--kinds NAMES", "Kinds of known circuits: compiled, planted, trained; default all.")
@option("--cases NAMES", "Known circuits, with commas between; --list shows them.")
@click.option("--list", "listing", is_flag=True, help="List the known circuits, and do no more.")
@option("--write FOLDER", "Write the known circuits as folders for other tools.", type=FILE)
@option("-o --output KNOWN.json", "Write the scores.", type=FILE)
@option("--threads N", "Threads torch computes with.", type=WholeNumber(1, 1024))
@option(
    "--jobs N",
    "Processes that share the known circuits, each with --threads, or one; default: this process.",
    type=WholeNumber(1, 256),
)
@options.json_option
def benchmark(
    folder: str | None, output: str | None, threads: int | None, as_json: bool, **asked: Any
) -> None:
    """Score methods on circuits that are known: compiled programs, planted and trained ones.

    AUC: of a true and another edge, how often the true one has the larger |score|. Precision and
    recall: of a circuit of as many edges as are true, or of the one that a search chose itself. f:
    what it keeps on held-out pairs. Options that say how many edges are wanted are the true number.

    With DIR, circuits that others found are scored instead: each file is called as the case it is
    of, as in DIR/TOOL/reverse-zero.json, in any format that `edgewise evaluate` takes, and
    TOOL is what stands in the table. --write gives the cases to others.
    """
    from ..graphs.files.tables.known import TABLES, write_known
    from ..known.cases import case_groups
    from ..known.parallel import score_in_processes
    from ..known.scoring import score_methods, usual_methods
    from ..progress import reporting

    for name, value in {
        "DIR": folder,
        "--list": asked["listing"],
        "--write": asked["write"],
    }.items():
        if value and asked["jobs"] is not None:
            raise click.UsageError(f"--jobs stands beside {name}, which runs no method.")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    chosen = _chosen(asked["kinds"], asked["cases"])
    if asked["listing"]:
        _list(chosen, as_json)
        return
    if (write := asked["write"]) is not None:
        _write(write, chosen, as_json)
        return
    if output is not None:
        options.claim(output)
    names = asked["methods"]
    if folder is not None and names is not None:
        raise click.UsageError("--methods stands beside DIR; accepted: one of them.")
    methods = usual_methods() if names is None else _asked(names)
    with reporting() as progress:
        if folder is not None:
            found = _given(folder, list(chosen))
        elif (jobs := asked["jobs"] or 1) == 1:
            found = score_methods(chosen, methods, progress)
        else:
            groups = case_groups(*_names(asked["kinds"], asked["cases"]))
            labels = [one.label for one in methods]
            found = score_in_processes(groups, labels, jobs, threads or 1, progress)
    if output is not None:
        write_known(output, found)
    if as_json:
        show.emit({**found.as_dict(), "written": output}, rows=TABLES)
        return
    _print(found)
    show.written(output)


def _list(chosen: Iterator[KnownCase], as_json: bool) -> None:
    from ..known.scoring import case_row

    rows = [case_row(case) for case in chosen]
    if as_json:
        show.emit({"cases": rows}, rows=("cases",))
    else:
        show.table(tuple(rows[0]), [tuple(row.values()) for row in rows], left=range(3))


def _write(folder: str, chosen: Iterator[KnownCase], as_json: bool) -> None:
    from ..known.cases import write_cases

    options.claim_folder(folder)
    written = write_cases(folder, chosen)
    if as_json:
        show.emit({"written": [str(one) for one in written]})
    else:
        show.line(f"written: {len(written)} folders in {folder}")


def _asked(text: str) -> list[AskedMethod]:
    from ..steps.claims.asked import AskedMethod

    with usage():
        return [AskedMethod.parse(one) for one in names_of("methods", text)]


def _chosen(kinds: str | None, cases: str | None) -> Iterator[KnownCase]:
    """Return the cases that are asked for; each is made when it is reached."""
    from ..known.cases import known_cases

    with usage():
        return known_cases(*_names(kinds, cases))


def _names(kinds: str | None, cases: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the kinds and the names that are asked for."""
    from ..known.cases import KINDS

    wanted = KINDS if kinds is None else tuple(names_of("kinds", kinds))
    return wanted, () if cases is None else tuple(names_of("cases", cases))


def _given(folder: str, cases: Sequence[KnownCase]) -> KnownFile:
    """Score the circuits in a folder, each called as its case."""
    from ..graphs.files.tables.known import KnownFile
    from ..known.scoring import case_row, metric_of_circuits

    place = Path(folder).expanduser()
    if not place.is_dir():
        raise EdgewiseError(f"{folder} is no folder; accepted: a folder of circuit files.")
    by_name = {case.name: case for case in cases}
    paths = sorted(one for one in place.rglob("*") if one.is_file() and one.stem in by_name)
    if not paths:
        raise EdgewiseError(
            f"no file in {folder} is called as a known circuit; accepted: files such as "
            f"{next(iter(by_name))}.json (`edgewise benchmark --list` lists the names)."
        )
    rows = [_scored(one, place, by_name[one.stem]) for one in paths]
    there = [case_row(by_name[name]) for name in dict.fromkeys(one.stem for one in paths)]
    return KnownFile(metric_of_circuits(), there, rows)


def _scored(path: Path, folder: Path, case: KnownCase) -> ScoredRow:
    """Score one file; its tool is the folder that it lies in."""
    from ..experiment.spec import ComputeSpec
    from ..graphs.files import CircuitFile, read_scores_of
    from ..graphs.files.exchange.named import is_named, read_named
    from ..known.scoring import scored_row

    within = path.relative_to(folder).parent
    label = str(within) if within.parts else folder.name
    if is_named(path):
        return scored_row(label, case, None, read_named(path).on(case.session.graph))
    given = read_given(str(path))
    if isinstance(given, CircuitFile):
        found = read_scores_of(given).scores if _ranked(given) else None
        return scored_row(label, case, found, given.circuit)
    made = in_model(given, case.session, ComputeSpec(), curve=True)
    if made.scores is not None:
        return scored_row(label, case, made.scores.scores)
    return scored_row(label, case, None, made.file.circuit)


def _ranked(given: CircuitFile) -> bool:
    """Tell whether a circuit's own scores stand beside it; a search's are another method's."""
    from ..discovery.registry import methods
    from ..graphs.files import scores_path

    own = methods().get(str(given.discovery.get("method")))
    there = given.path is not None and scores_path(given.path).exists()
    return there and own is not None and not own.selects


def _print(found: KnownFile) -> None:
    """Print what each method found on each kind of case, and where it missed edges."""
    kind_of = {row["case"]: row["kind"] for row in found.cases}
    heads = ("method", "kind", "AUC", "AUC 1", "precision", "recall", "f", "seconds")
    rows = list[tuple[object, ...]]()
    for method in found.methods:
        for kind in dict.fromkeys(kind_of.values()):
            own = [r for r in found.scored if r["method"] == method and kind_of[r["case"]] == kind]
            run = [row for row in own if row["refused"] is None]
            if not run:
                continue
            all_found = sum((row["AUC"] or 0) >= FOUND_ALL for row in run)
            rows.append(
                (method, kind, _mean(run, "AUC"), f"{all_found} of {len(run)}",
                 _mean(run, "precision"), _mean(run, "recall"), _mean(run, "f"),
                 sum(row["seconds"] or 0.0 for row in run))
            )  # fmt: skip
    shown = [tuple(_text(one) for one in row) for row in rows]
    show.table(heads, shown, left=(0, 1))
    refused = [row for row in found.scored if row["refused"] is not None]
    show.line()
    show.sentences(
        [
            "AUC, precision, recall and f are means over cases; AUC 1: on how many all true edges "
            f"rank before all others. f is by {found.metric}, on held-out pairs."
        ]
    )
    nodes = dict.fromkeys(row["method"] for row in found.scored if row.get("level") == NODE)
    show.sentences(
        f"{method} scores nodes: true are those that write along a true edge." for method in nodes
    )
    show.sentences(f"{r['method']} refused {r['case']}: {r['refused']}" for r in refused[:5])
    if len(refused) > 5:
        show.sentences([f"{len(refused) - 5} more were refused, which the file lists."])


def _mean(rows: Sequence[ScoredRow], key: str) -> float | None:
    values = [float(value) for row in rows if (value := row[key]) is not None]  # type: ignore[literal-required]
    return float(np.mean(values)) if values else None


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if value >= 10 else f"{value:.3f}"
    return "-" if value is None else str(value)
