"""Read and write circuits, scores, diffs and more: a format, its value and functions a module."""

from __future__ import annotations

from pathlib import Path

from ..calls.typed import typed
from . import circuit as circuit_file
from . import diff as diff_file
from . import timeline as timeline_file
from .atomic import check_writable
from .circuit import CircuitFile, model_block, read_circuit, write_circuit
from .diff import DiffFile, diff_files, read_diff, unlike, write_diff
from .example_scores import (
    ExampleScoresFile,
    example_scores_of,
    examples_path,
    read_example_scores,
    write_example_scores,
)
from .json_files import read_document
from .roles import RolesFile, read_roles, write_roles
from .scores import ScoresFile, read_scores, read_scores_of, scores_path, write_scores
from .tables import known as known_file
from .tables import matrix as matrix_file
from .tables import methods as methods_file
from .tables.known import KnownFile, read_known, write_known
from .tables.matrix import MatrixFile, read_matrix, write_matrix
from .tables.methods import MethodsFile, read_methods, write_methods
from .timeline import TimelineFile, read_timeline, write_timeline
from .transplant import TransplantFile, read_transplant, write_transplant

__all__ = [
    "CircuitFile",
    "DiffFile",
    "ExampleScoresFile",
    "KnownFile",
    "MatrixFile",
    "MethodsFile",
    "RolesFile",
    "ScoresFile",
    "TimelineFile",
    "TransplantFile",
    "check_writable",
    "diff_files",
    "example_scores_of",
    "examples_path",
    "model_block",
    "read_any",
    "read_circuit",
    "read_diff",
    "read_drawable",
    "read_example_scores",
    "read_known",
    "read_matrix",
    "read_methods",
    "read_roles",
    "read_scores",
    "read_scores_of",
    "read_timeline",
    "read_transplant",
    "scores_path",
    "unlike",
    "write_circuit",
    "write_diff",
    "write_example_scores",
    "write_known",
    "write_matrix",
    "write_methods",
    "write_roles",
    "write_scores",
    "write_timeline",
    "write_transplant",
]


@typed
def read_any(path: str | Path) -> CircuitFile | DiffFile:
    """Read a circuit file or a diff file, whichever it is; a FileFormatError says if neither."""
    formats = {one.FORMAT: one.VERSION for one in (circuit_file, diff_file)}
    parsed = read_document(path, "a circuit or diff file", formats)
    if parsed["format"] == diff_file.FORMAT:
        return read_diff(path, parsed)
    return read_circuit(path, parsed)


@typed
def read_drawable(
    path: str | Path,
) -> CircuitFile | DiffFile | TimelineFile | KnownFile | MatrixFile | MethodsFile:
    """Read a circuit, diff, timeline or any table's file; a FileFormatError if it is none."""
    modules = (circuit_file, diff_file, timeline_file, matrix_file, methods_file, known_file)
    formats = {one.FORMAT: one.VERSION for one in modules}
    parsed = read_document(path, "a circuit, diff, timeline, matrix or methods file", formats)
    if parsed["format"] == known_file.FORMAT:
        return read_known(path, parsed)
    if parsed["format"] == methods_file.FORMAT:
        return read_methods(path, parsed)
    if parsed["format"] == matrix_file.FORMAT:
        return read_matrix(path, parsed)
    if parsed["format"] == timeline_file.FORMAT:
        return read_timeline(path, parsed)
    return (
        read_diff(path, parsed)
        if parsed["format"] == diff_file.FORMAT
        else read_circuit(path, parsed)
    )
