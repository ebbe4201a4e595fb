"""`edgewise matrix`: several circuits on several tasks, kept and cut out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..graphs.errors import EdgewiseError
from . import options, show
from .accepted import COUNT, FILE, WholeNumber, names_of, option, usage
from .flags import Flags, with_flags
from .given import in_model, read_given

if TYPE_CHECKING:
    from ..experiment.spec import ComputeSpec, GraphSpec
    from ..experiment.task import TaskSpec
    from ..graphs.files import CircuitFile
    from ..graphs.files.exchange import Foreign
    from ..graphs.files.tables.matrix import MatrixFile, MatrixRow
    from ..progress import Progress
    from ..session import Session

TITLES = {
    "kept": "faithfulness of each circuit on each task",
    "cut": "what is left of each task without the circuit",
}


@click.command(short_help="Measure several circuits on several tasks, kept and cut out.")
@options.model_option
@option("--tasks NAMES", "Tasks, or files of prompt pairs, with commas between.", required=True)
@option(
    "--circuits FILES",
    "Circuit files, which may be another tool's, with commas between; default: the usual method "
    "finds one for each task.",
)
@option("--examples N", "Pairs of each task that circuits are found on; default 64.", type=COUNT)
@options.test_option
@option("--seed N", "Decides which pairs a built-in task makes; default 0.", type=WholeNumber(0))
@options.measure_options(searching=False)
@option("--random K", "Random circuits of each circuit's size; default 10.", type=COUNT)
@option("--draw-seed N", "Decides which random circuits; default 0.", type=WholeNumber(0))
@option("-o --output MATRIX.json", "Write the matrix, and beside it the circuits found.", type=FILE)
@options.graph_options
@options.compute_options
@options.json_option
@with_flags
def matrix(
    model: str, tasks: str, circuits: str | None, flags: Flags, output: str | None, as_json: bool
) -> None:
    """Measure what circuits keep of tasks, and what is left of the tasks without them.

    A circuit that is a task's own keeps that task and little of the others; cut out of the model,
    that task suffers and the others do not. Beside each number stands the median of random circuits
    of as many edges of each kind, and how many of them the circuit beats.
    """
    from ..experiment.spec import EvaluationSpec, GraphSpec
    from ..graphs.files import write_circuit
    from ..graphs.files.tables.matrix import TABLES, write_matrix
    from ..progress import reporting
    from ..steps.claims.matrix import RANDOM, circuits_needed, task_matrix

    wanted, files = _tasks(tasks, flags), None if circuits is None else _circuits(circuits)
    names = [one.name for one in wanted]
    beside = {} if output is None or files is not None else _beside(output, names)
    for path in filter(None, (output, *beside.values())):
        options.claim(path)
    metrics = (flags["metric"],) if flags["metric"] else ()
    spec = flags.over(EvaluationSpec(metrics))
    compute = flags.compute()
    count = circuits_needed(len(wanted), len(files or wanted), spec.random or RANDOM)
    show.aside(f"{count:,} circuits are run")
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session, own = _opened(model, files or {}, flags.over(GraphSpec()), compute, progress)
        made = task_matrix(session, wanted, own or None, spec, compute, progress)
    for name, path in beside.items():
        write_circuit(path, made.found[name])
    if output is not None:
        write_matrix(output, made.file)
    if as_json:
        show.emit({**made.file.as_dict(), "written": output}, rows=TABLES)
        return
    _print(made.file)
    show.written(output)
    for path in beside.values():
        show.line(f"         {path}")


def _tasks(text: str, flags: Flags) -> list[TaskSpec]:
    """Return the tasks that are named, each made as the flags say."""
    from ..experiment.task import TaskSpec

    names = names_of("tasks", text)
    with usage():
        found = [TaskSpec.named(one, **flags.only("examples", "test", "seed")) for one in names]
        called = [one.name for one in found]
        if twice := [name for name in called if called.count(name) > 1]:
            raise EdgewiseError(f"--tasks names '{twice[0]}' twice; accepted: each once.")
    return found


def _circuits(text: str) -> dict[str, CircuitFile | Foreign]:
    """Read circuit files, which may be another tool's, called as the files are."""
    found: dict[str, CircuitFile | Foreign] = {}
    for path in names_of("circuits", text):
        name = Path(path).name.removesuffix(".json")
        if name in found:
            raise EdgewiseError(
                f"two circuits are called '{name}', by their files' names; rename one of them."
            )
        found[name] = read_given(path)
    return found


def _opened(
    model: str,
    given: Mapping[str, CircuitFile | Foreign],
    graph: GraphSpec,
    compute: ComputeSpec,
    progress: Progress,
) -> tuple[Session, dict[str, CircuitFile]]:
    """Open the model with the ports that the circuits have; put those of other tools on it."""
    from ..experiment.spec import GraphSpec
    from ..graphs.files import CircuitFile
    from ..session import open_model
    from ..steps.imported import open_for_foreign

    first = next(iter(given.values()), None)
    if first is None or isinstance(first, CircuitFile):
        graph = graph if first is None else GraphSpec.of_graph(first.circuit.graph)
        session = open_model(model, graph, compute, progress=progress)
    else:
        session = open_for_foreign(first, model, compute, progress)
    files = {
        name: one if isinstance(one, CircuitFile) else in_model(one, session, compute).file
        for name, one in given.items()
    }
    return session, files


def _beside(output: str, names: list[str]) -> dict[str, str]:
    """Name the files of the circuits that are found, beside the matrix."""
    stem = output.removesuffix(".json")
    return {name: f"{stem}.{name}.json" for name in names}


def _print(found: MatrixFile) -> None:
    how = found.matrix
    show.facts(
        ("model", found.model["name"]),
        ("measured", f"{how['metric']}, {how['ablation']} ablation"),
        ("random", f"{how['random']} circuits of each circuit's size"),
    )
    tasks = [(t["name"], t["task"]["examples"], t["full"], t["empty"]) for t in found.tasks]
    show.table(("task", "pairs", "full model", "no edge"), tasks)
    circuits = [(one["name"], one["edges"], one["nodes"]) for one in found.circuits]
    show.table(("circuit", "edges", "nodes"), circuits)
    for name, title in TITLES.items():
        rows: list[MatrixRow] = getattr(found, name)
        heads = ("task", "circuit", "f", "low", "high", "random", "beats")
        show.table(heads, map(_row, rows), title=title, left=(0, 1))
    if found.overlap:
        columns = ("circuit", "other", "edges", "chance", "nodes", "by_chance")
        cells = [
            (one["circuit"], one["other"], *(show.ratio(value) for value in _numbers(one)))
            for one in found.overlap
        ]
        show.table(columns, cells, title="overlap (Jaccard)", left=(0, 1))
    show.line()
    show.sentences(_read(found))


def _row(row: MatrixRow) -> tuple[object, ...]:
    numbers = (show.ratio(row[key]) for key in ("f", "low", "high"))
    ends = _pair(row.get("random_low"), row.get("random_high"))
    random = f"{show.ratio(row['random'])} {show.ends(ends)}".rstrip()
    beats, ends = row["beats"], _pair(row.get("beats_low"), row.get("beats_high"))
    beaten = "-" if beats is None else f"{beats:.0f}%"
    if ends is not None:
        beaten += " [{:.0f}, {:.0f}]".format(*ends)
    return row["task"], row["circuit"], *numbers, random, beaten


def _pair(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _numbers(row: Mapping[str, object]) -> Iterator[float]:
    for key in ("edges", "chance", "nodes", "by_chance"):
        value = row[key]
        assert isinstance(value, float)
        yield value


def _read(found: MatrixFile) -> Iterator[str]:
    """Say what the diagonal shows, and where a number means nothing."""
    from ..steps.claims.matrix import diagonal

    sums = diagonal(found)
    if "kept" in sums:
        own, other = sums["kept"]
        yield f"Circuits keep {own:.2f} of their own tasks and {other:.2f} of the others."
    if "cut" in sums:
        own, other = sums["cut"]
        yield f"Without them {own:.2f} is left of their own tasks and {other:.2f} of the others."
    undefined = {row["task"] for row in found.kept if row["f"] is None}
    if undefined:
        tasks = ", ".join(sorted(undefined))
        yield f"Undefined on {tasks}: full model and no edge do not differ beyond chance."
    for one in found.circuits:
        for task, count in one.get("seen", {}).items():
            where = f"{count:,} of the pairs of {task}"
            yield f"{one['name']} was found on {where}: measured in sample."
    same = [one["name"] for one in found.tasks if not one["held_out"]]
    if same:
        yield f"Nothing is held out of {', '.join(same)}: circuits may have been found there."
