"""Sentences with gaps: where the subject goes, and where the object is to be said.

{} flows through          The [X] lies in [Y] .          In <subject>, they speak [MASK].
"""

from __future__ import annotations

import re
from functools import lru_cache

GAP = "{}"

_SUBJECT = r"s|x|subj|subject|sub_label|entity|head|name"
_OBJECT = r"o|y|obj|object|obj_label|answer|target|tail"
_GAPS = re.compile(rf"\{{\}}|%s|\{{(?:0|{_SUBJECT})\}}|\[(?:{_SUBJECT})\]|<(?:{_SUBJECT})>", re.I)
MASK = re.compile(r"<extra_id_\d+>|\[MASK\]|<mask>|\[BLANK\]|<blank>|_{3,}")
_ENDS = re.compile(
    rf"\s*(?:\{{(?:1|{_OBJECT})\}}|\[(?:{_OBJECT})\]|<(?:{_OBJECT})>|{MASK.pattern}).*", re.I | re.S
)


@lru_cache(10_000)
def opened(text: str) -> str:
    """Return a sentence with its gaps written {}, up to where the object is to be said.

    >>> opened("The [X] lies in [Y] ."), opened("{} is in {}."), opened("{0}, oh {0} is")
    ('The {} lies in', '{} is in', '{}, oh {} is')
    """
    found = _ENDS.sub("", text)
    gaps = [*_GAPS.finditer(found)]
    unnamed = [one for one in gaps if one[0] in (GAP, "%s")]
    if len(unnamed) > 1:  # of two places without a name the second is the object's
        found = found[: unnamed[1].start()]
    return _GAPS.sub(GAP, found).rstrip()
