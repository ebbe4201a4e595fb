"""Licences that a user has to accept, once, before models under them are fetched or read.

Accepted is what `accept_licence` was called with (the command line's option does that): it is
remembered in the cache directory, beside the models. For machines without such a directory the
environment variable `EDGEWISE_ACCEPT_LICENCE` lists names, with commas between.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from ...calls.typed import typed
from ...errors import EdgewiseError, LicenceNotAccepted, unknown
from ...files.atomic import unwritable, write_text
from ...files.reading import read_json
from .cache import cache_directory

VARIABLE = "EDGEWISE_ACCEPT_LICENCE"


@dataclass(frozen=True)
class Licence:
    """Terms that nobody can accept for another; `addresses`: where to read them."""

    name: str
    title: str
    addresses: tuple[str, ...]


GEMMA = Licence(
    "gemma",
    "Gemma Terms of Use with its Prohibited Use Policy",
    ("https://ai.google.dev/gemma/terms", "https://ai.google.dev/gemma/prohibited_use_policy"),
)

LICENCES = {one.name: one for one in (GEMMA,)}
"""The licences by their names."""


@typed
def accept_licence(name: str) -> Path | None:
    """Accept a licence's terms, for this user and from now on.

    Returns:
        The file that remembers it; None if it was accepted before.

    Raises:
        UnknownName: no built-in model is under such a licence.
        EdgewiseError: the file cannot be written.

    >>> accept_licence("gpl")  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    UnknownName: unknown licence 'gpl'. Accepted: gemma.
    """
    licence = licence_named(name)
    remembered, path = _remembered(), _file()
    if name in remembered:
        return None
    entry = {"title": licence.title, "read": licence.addresses, "accepted": str(date.today())}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    write_text(path, json.dumps({**remembered, name: entry}, indent=1) + "\n")
    return path


def licence_named(name: str) -> Licence:
    """Return a licence; an unknown name is refused with those that there are."""
    if name not in LICENCES:
        raise unknown("licence", name, LICENCES)
    return LICENCES[name]


def require_accepted(licence: Licence, alias: str) -> None:
    """Refuse to go on with a model under terms that were not accepted."""
    named = os.environ.get(VARIABLE, "")
    if licence.name in {one.strip() for one in named.split(",")} or licence.name in _remembered():
        return
    found = f" ({VARIABLE} is '{named}')" if named else ""
    raise LicenceNotAccepted(
        f"'{alias}' is under the {licence.title}, which you have not accepted here{found}. Read "
        f"{' and '.join(licence.addresses)}; if you accept them, say so once with "
        f'`accept_licence` {licence.name} (in Python edgewise.accept_licence("{licence.name}")), '
        f"or put {VARIABLE}={licence.name} into the environment. Before that nothing of the model "
        "is fetched or read."
    )


def _file() -> Path:
    return cache_directory() / "licences.json"


def _remembered() -> dict[str, object]:
    try:
        found = read_json(_file())
    except EdgewiseError:  # none yet, or damaged: then it is asked again
        return {}
    return found if isinstance(found, dict) else {}
