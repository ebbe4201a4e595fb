"""What `edgewise draw` makes with `--as heat-map` and `--as overlap`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import show

if TYPE_CHECKING:
    from ..report.maps import ScoredSide


def heat_map(
    files: Sequence[str], output: str, labels: Sequence[str], title: str | None, absolute: bool
) -> dict[str, Any]:
    """Draw node scores; return what to print as JSON."""
    from ..report.maps import draw_heat_map
    from ..visualize.draw import write_scene

    sides = _sides(files, labels)
    names = [side.name for side in sides]
    usual = f"Node scores of {' and '.join(names)}"
    scene = draw_heat_map(sides, title=usual if title is None else title, absolute=absolute)
    write_scene(scene, output)
    shown = [*names, "their difference"] if len(names) > 1 else names
    return {"drawing": output, "kind": "heat-map", "panels": shown, "absolute": absolute}


def _sides(files: Sequence[str], labels: Sequence[str]) -> list[ScoredSide]:
    """Read a diff file, or one or two circuit or scores files."""
    from ..graphs.files import DiffFile, read_any, read_scores
    from ..graphs.scores import Scores
    from ..report.maps import ScoredSide, diff_sides, label_files

    if len(files) > 2:
        raise click.UsageError(f"a heat map takes one or two files or a diff, not {len(files)}.")
    found, models = [], list[Mapping[str, object]]()
    for file in files:
        if file.endswith(".safetensors"):
            found.append((read_scores(file).scores, False))
            models.append({"name": "?"})
            continue
        read = read_any(file)
        if isinstance(read, DiffFile):
            if len(files) > 1:
                raise click.UsageError(f"{file} is a diff: give it alone, or give circuit files.")
            sources = [str(head.get("file", "?")) for head in (read.a, read.b)]
            a, b = label_files(sources, [read.a["model"], read.b["model"]])
            a, b = _labelled([a, b], labels)
            return diff_sides(read, (a, b))
        assert read.edge_scores is not None  # CircuitFile.__post_init__
        found.append((Scores(read.circuit.graph, read.edge_scores), True))
        models.append(read.model)
    names = _labelled(label_files(files, models), labels)
    return [ScoredSide(name, *one) for name, one in zip(names, found, strict=True)]


def overlap(
    files: Sequence[str], output: str, labels: Sequence[str], title: str | None, order: str
) -> dict[str, Any]:
    """Draw the overlaps of every two circuits; return what to print as JSON."""
    from ..graphs.files import read_circuit
    from ..report.maps import draw_overlap, label_files
    from ..visualize.draw import write_scene

    if len(files) < 2:
        raise click.UsageError("a matrix of overlaps takes two or more circuit files.")
    read = [read_circuit(file) for file in files]
    names = _labelled(label_files(files, [dict(one.model) for one in read]), labels)
    circuits = {name: one.circuit for name, one in zip(names, read, strict=True)}
    _check_widths(names, [one.model["d_model"] for one in read])
    usual = f"Overlap of {len(files)} circuits"
    scene, ordered, overlaps = draw_overlap(
        circuits, title=usual if title is None else title, clustered=order == "clustered"
    )
    write_scene(scene, output)
    return {
        "drawing": output,
        "kind": "overlap",
        "circuits": ordered,
        "jaccard": [[one.jaccard for one in row] for row in overlaps],
        "corrected_jaccard": [[one.corrected for one in row] for row in overlaps],
    }


def _check_widths(names: Sequence[str], widths: Sequence[int]) -> None:
    """Refuse models of unequal width, whose edges carry different things."""
    from ..graphs.errors import GraphMismatch

    if len(set(widths)) > 1:
        listed = ", ".join(f"{name} {w}" for name, w in zip(names, widths, strict=True))
        raise GraphMismatch(
            f"the circuits' edges cannot be compared: d_model differs ({listed}). Compare circuits "
            "of models of one shape."
        )


def _labelled(names: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Take the labels given, if any, one for each circuit, in place of the names."""
    if not labels:
        return tuple(names)
    if len(labels) != len(names):
        raise click.UsageError(
            f"--label was given {len(labels)} times for {len(names)} circuits; give one for each."
        )
    if len(set(labels)) < len(labels):
        raise click.UsageError("two circuits have the same --label; give each its own.")
    return tuple(labels)


def tell(found: dict[str, Any], as_json: bool) -> None:
    """Print what was drawn."""
    if as_json:
        show.emit(found)
        return
    what = found.get("panels") or found["circuits"]
    show.line(f"written: {found['drawing']} ({Path(found['drawing']).suffix[1:]}: "
              f"{', '.join(what)})")  # fmt: skip
