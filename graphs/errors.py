"""Every error a user can cause, as one tree.

A message says what failed, what was found, what is accepted and what to do. What to do is said in
the words of Python: arguments by their names, in backquotes. The command line prints it as one
paragraph, with its options in their place, and exits with status 1.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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


class LicenceNotAccepted(ModelNotFound):
    """The model is under terms that the user has not accepted."""


class PromptError(EdgewiseError):
    """Prompt pairs are malformed, misaligned or empty."""


class UnknownName(EdgewiseError):
    """A registry key, option or metric name does not exist."""


class WrongArgument(EdgewiseError, TypeError):
    """A call's argument is of a wrong type, missing, or one too many."""


class UnknownArgument(UnknownName, WrongArgument):
    """A call has no argument of this name."""

    def __init__(self, message: str, call: str = "", found: str = "", accepted: Iterable[str] = ()):
        super().__init__(message)
        self.call, self.found, self.accepted = call, found, tuple(accepted)


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


class OutOfMemory(EdgewiseError):
    """The memory of the processor, or of the device computed on, does not suffice."""


_FULL = re.compile(
    r"can(no|')t allocate memory|not enough memory|out of memory|unable to mmap|bad_alloc", re.I
)
_ASKED = re.compile(r"(?:allocate|mmap) (\d+) bytes|allocate ([\d.]+ ?[KMGTPE]i?B)", re.I)


def out_of_memory(error: BaseException) -> OutOfMemory | None:
    """Return what to say if an error of torch, numpy, Python or the system means too little memory.

    >>> print(out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")))
    the memory does not suffice: that of the CUDA device has no further 2.00 GiB, which were ...
    """
    text = " ".join(str(error).split())
    full = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if isinstance(error, EdgewiseError) or not (full or _FULL.search(text)):
        return None
    device = re.search(r"\b(CUDA|HIP|MPS|XPU)\b", text)
    whose = f"{device[1]} device" if device else "processor"
    asked, size = _ASKED.search(text), "memory, which was"
    if asked:
        size = f"{asked[2] or f'{max(1, int(asked[1]) >> 20):,} MB'}, which were"
    return OutOfMemory(
        f"the memory does not suffice: that of the {whose} has no further {size} asked for at "
        "once. Try a smaller `batch_size`, fewer `examples`, fewer `candidates` of a search, or "
        "`dtype` bfloat16; a model that does not fit at all needs another `device` or a smaller "
        "model."
    )


@contextmanager
def within_memory() -> Iterator[None]:
    """Raise what `out_of_memory` says if memory runs out inside; also decorates functions."""
    try:
        yield
    except Exception as error:
        told = out_of_memory(error)
        if told is None:
            raise
        raise told from error


MOST_NAMES = 24
"""How many accepted names an error lists; of more, half as many."""


def unknown(what: str, found: str, accepted: Iterable[str]) -> UnknownName:
    """Build the error for a name that is not in a closed list, with the nearest match.

    Of a long list only the names most like it are told.

    >>> print(unknown("metric", "logit_dif", ["kl", "logit_diff"]))
    unknown metric 'logit_dif'; did you mean 'logit_diff'? Accepted: kl, logit_diff.
    """
    names = list(accepted)
    near = difflib.get_close_matches(found, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    listed, more = names, ""
    if len(names) > MOST_NAMES:
        listed = difflib.get_close_matches(found, names, n=MOST_NAMES // 2, cutoff=0)
        more = f" and {len(names) - len(listed)} more"
    return UnknownName(f"unknown {what} '{found}'{hint} Accepted: {', '.join(listed)}{more}.")


def unknown_argument(call: str, found: str, accepted: Iterable[str]) -> UnknownArgument:
    """Build the error for an argument that a call does not have, with the nearest that it has.

    >>> print(unknown_argument("draw", "titel", ["path", "title"]))
    unknown argument of draw 'titel'; did you mean 'title'? Accepted: path, title.
    """
    names = list(dict.fromkeys(accepted))
    said = unknown(f"argument of {call}", found, names)
    return UnknownArgument(str(said), call, found, names)
