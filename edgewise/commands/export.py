"""`edgewise export`: write circuits as EAP-IG's graphs, or as a submission to MIB."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options, show
from .accepted import FILE, option

if TYPE_CHECKING:
    from ..graphs.files import CircuitFile
    from ..graphs.files.exchange.mib import Submitted
    from ..graphs.scores import Scores

ENDINGS = (".json", ".pt")


@click.command(short_help="Write circuits as EAP-IG and MIB read them.")
@click.argument("circuits", type=FILE, metavar="CIRCUIT.json...", nargs=-1, required=True)
@option("--sizes", "[a folder] A circuit of each of MIB's ten sizes, in place of all scores.")
@option("--signed", "[--sizes] Choose edges by score, not by |score|.")
@option(
    "--form FORM",
    "[a folder] What its files are: json, or pt, torch's tensors; default json.",
    type=click.Choice(["json", "pt"]),
)
@option(
    "--name TASK_MODEL",
    "[a folder] The folder of one circuit's task and model, such as ioi_gpt2; default: as its file "
    "has them.",
    type=FILE,
)
@option(
    "-o --output FILE.json|FILE.pt|FOLDER",
    "One graph of EAP-IG; or, of another name, the folder of a submission.",
    type=FILE,
    required=True,
)
@options.json_option
def export(
    circuits: tuple[str, ...],
    sizes: bool,
    signed: bool,
    form: str | None,
    name: str | None,
    output: str,
    as_json: bool,
) -> None:
    """Write circuits in the formats of EAP-IG and the benchmark MIB.

    A file that ends in .json or .pt is one graph of EAP-IG, with the scores that the circuit's file
    has. Another name is a submission to MIB, in which each circuit has a folder
    METHOD_ABLATION_LEVEL/TASK_MODEL with the importances of all edges, or with --sizes circuits of
    .1, .2, .5, 1, 2, 5, 10, 20, 50 and 100 percent of them; that takes the scores beside the file.
    """
    if not output.endswith(ENDINGS):
        written = _submission(circuits, (sizes, signed), form or "json", name, output)
    else:
        given = {"--sizes": sizes, "--signed": signed, "--form": form, "--name": name}
        wrong = [key for key, value in given.items() if value]
        if wrong:
            raise click.UsageError(
                f"{wrong[0]} is of a folder, and {output} is one file; leave it out, or give a "
                "name that does not end in .json or .pt."
            )
        if len(circuits) > 1:
            raise click.UsageError(
                f"{output} is one graph, and {len(circuits)} circuits are given; give one, or a "
                "folder."
            )
        written = [_graph(circuits[0], output)]
    if as_json:
        show.emit({"written": written})
        return
    for path in written:
        show.line(f"written: {path}")


def _graph(circuit: str, output: str) -> str:
    """Write one graph of EAP-IG."""
    from ..graphs.files.exchange import write_eap_ig
    from .given import read_own

    options.claim(output, circuit)
    file, scores = read_own(circuit, _with_scores)
    write_eap_ig(output, file.circuit, scores, d_model=file.model["d_model"])
    return output


def _submission(
    circuits: tuple[str, ...],
    sizes: tuple[bool, bool],
    form: str,
    name: str | None,
    output: str,
) -> list[str]:
    """Write the folder of a submission; refuse two circuits that would stand in one place."""
    from ..graphs.files import check_writable
    from ..graphs.files.exchange.mib import Submitted, places, write_submission
    from .given import read_own

    by_size, signed = sizes
    if signed and not by_size:
        raise click.UsageError("--signed chooses edges for --sizes; give that too.")
    if name is not None and len(circuits) > 1:
        raise click.UsageError("--name is of one circuit, and several are given; export each.")
    if name is not None and (name in (".", "..") or set(name) & set("/\\")):
        raise click.UsageError(f"--name is '{name}'; accepted: the name of one folder.")
    every: dict[Path, tuple[str, Submitted]] = {}
    for path in circuits:
        file, scores = read_own(path, _with_scores)
        one = Submitted(file, scores, name, by_size, signed)
        if one.folder in every:
            raise click.UsageError(
                f"{every[one.folder][0]} and {path} would both be written to "
                f"{Path(output) / one.folder}; export one of them to another folder."
            )
        list(one.graphs())  # what cannot be written is refused before anything is
        for place in places(one, output, form):
            if place.parent.is_dir():
                check_writable(place, *circuits)
        every[one.folder] = path, one
    return [str(at) for _, one in every.values() for at in write_submission(output, one, form)]


def _with_scores(path: str) -> tuple[CircuitFile, Scores | None]:
    """Read a circuit with all scores beside it, or with those that it has itself."""
    from ..graphs.files import read_circuit, read_scores_of, scores_path
    from ..graphs.levels.nodes import EDGE
    from ..graphs.scores import Scores

    file = read_circuit(path)
    if scores_path(path).exists():
        return file, read_scores_of(file).scores
    own, level = file.edge_scores, file.discovery.get("level", EDGE)
    return file, None if own is None else Scores(file.circuit.graph, own, str(level))
