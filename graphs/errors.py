"""Every error a user can cause, as one tree.

A message says what failed, what was found, what is accepted and what to do.
The command line prints it as one paragraph and exits with status 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgewiseError(Exception):
    """The request cannot be carried out; the message tells why and what to do."""


class NameSyntaxError(EdgewiseError):
    """A node, port, edge or path name cannot be read."""


class GraphMismatch(EdgewiseError):
    """Two values live on different computation graphs, or a name is not in the graph."""


class UnsupportedModel(EdgewiseError):
    """The model is of a family, or has a variant, that cannot be lifted exactly."""


class CertificateFailed(EdgewiseError):
    """The lifted model does not compute what the original model computes."""


class ModelNotFound(EdgewiseError):
    """The model's files cannot be obtained or read."""


class PromptError(EdgewiseError):
    """Prompt pairs are malformed, misaligned or empty."""


class UnknownName(EdgewiseError):
    """A registry key, option or metric name does not exist."""


class FileFormatError(EdgewiseError):
    """A file is damaged, of another format, or of a version this program cannot read."""


class SpecError(EdgewiseError):
    """An experiment's declaration is wrong."""


class JournalMismatch(EdgewiseError):
    """A journal was written by another request, so a walk cannot go on from it."""


class DriftError(EdgewiseError):
    """A search's loss is not that of the circuit it ended with."""


class MetricSyntaxError(EdgewiseError):
    """A metric expression cannot be parsed."""


def unknown(what: str, found: str, accepted: Iterable[str]) -> UnknownName:
    """Build the error for a name that is not in a closed list, with the nearest match.

    >>> print(unknown("metric", "logit_dif", ["kl", "logit_diff"]))
    unknown metric 'logit_dif'; did you mean 'logit_diff'? Accepted: kl, logit_diff.
    """
    names = list(accepted)
    near = difflib.get_close_matches(found, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return UnknownName(f"unknown {what} '{found}'{hint} Accepted: {', '.join(names)}.")
