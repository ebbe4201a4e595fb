"""Read and write circuits, scores, diffs and more: a format, its value and functions a module."""

from __future__ import annotations

from collections.abc import Callable
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
from .tables import knockout as knockout_file
from .tables import known as known_file
from .tables import matrix as matrix_file
from .tables import methods as methods_file
from .tables import tokens as tokens_file
from .tables import trace as trace_file
from .tables.knockout import KnockoutFile, read_knockout, write_knockout
from .tables.known import KnownFile, read_known, write_known
from .tables.matrix import MatrixFile, read_matrix, write_matrix
from .tables.methods import MethodsFile, read_methods, write_methods
from .tables.tokens import TokensFile, read_tokens, write_tokens
from .tables.trace import TraceFile, read_trace, write_trace
from .timeline import TimelineFile, read_timeline, write_timeline
from .transplant import TransplantFile, read_transplant, write_transplant

__all__ = [
    "CircuitFile",
    "DiffFile",
    "ExampleScoresFile",
    "KnockoutFile",
    "KnownFile",
    "MatrixFile",
    "MethodsFile",
    "RolesFile",
    "ScoresFile",
    "TimelineFile",
    "TokensFile",
    "TraceFile",
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
    "read_knockout",
    "read_known",
    "read_matrix",
    "read_methods",
    "read_roles",
    "read_scores",
    "read_scores_of",
    "read_timeline",
    "read_tokens",
    "read_trace",
    "read_transplant",
    "scores_path",
    "unlike",
    "write_circuit",
    "write_diff",
    "write_example_scores",
    "write_knockout",
    "write_known",
    "write_matrix",
    "write_methods",
    "write_roles",
    "write_scores",
    "write_timeline",
    "write_tokens",
    "write_trace",
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


Drawable = (
    CircuitFile
    | DiffFile
    | TimelineFile
    | KnockoutFile
    | KnownFile
    | MatrixFile
    | MethodsFile
    | TokensFile
    | TraceFile
)
"""What can be drawn."""

_DRAWABLE: dict[str, tuple[int, Callable[..., Drawable]]] = {
    circuit_file.FORMAT: (circuit_file.VERSION, read_circuit),
    diff_file.FORMAT: (diff_file.VERSION, read_diff),
    timeline_file.FORMAT: (timeline_file.VERSION, read_timeline),
    matrix_file.FORMAT: (matrix_file.VERSION, read_matrix),
    methods_file.FORMAT: (methods_file.VERSION, read_methods),
    known_file.FORMAT: (known_file.VERSION, read_known),
    tokens_file.FORMAT: (tokens_file.VERSION, read_tokens),
    trace_file.FORMAT: (trace_file.VERSION, read_trace),
    knockout_file.FORMAT: (knockout_file.VERSION, read_knockout),
}


@typed
def read_drawable(
    path: str | Path,
) -> Drawable:
    """Read a circuit, diff, timeline or any table's file; a FileFormatError if it is none."""
    formats = {name: version for name, (version, _) in _DRAWABLE.items()}
    parsed = read_document(path, "a circuit, diff, timeline, matrix or methods file", formats)
    return _DRAWABLE[str(parsed["format"])][1](path, parsed)
