"""The tree of errors under its public name; it stands in `graphs/errors.py`, below everything."""

from .graphs.errors import (
    CertificateFailed,
    DriftError,
    EdgewiseError,
    FileFormatError,
    GraphMismatch,
    JournalMismatch,
    MetricSyntaxError,
    ModelNotFound,
    NameSyntaxError,
    PromptError,
    SpecError,
    UnknownName,
    UnsupportedModel,
)

__all__ = [
    "CertificateFailed",
    "DriftError",
    "EdgewiseError",
    "FileFormatError",
    "GraphMismatch",
    "JournalMismatch",
    "MetricSyntaxError",
    "ModelNotFound",
    "NameSyntaxError",
    "PromptError",
    "SpecError",
    "UnknownName",
    "UnsupportedModel",
]
