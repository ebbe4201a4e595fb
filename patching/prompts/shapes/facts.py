"""Known facts: prompts about a subject, with what is true of it.

Pairs are formed by exchanging the subject within one sentence, or, where a sentence has one subject
only, within one relation, for a subject of equally many tokens of which something else is true.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ....graphs.errors import PromptError
from ..content import Content, Row
from ..json_fields import found
from ..keys import fields_of, plain
from ..row_context import RowContext
from ._exchange import Single, exchange
from ._gaps import GAP, opened
from ._registry import Fields, Rows, shape

SUBJECT = ("subject", "sub_label", "subj")
TRUE = ("attribute", "target_true", "object", "obj_label", "obj", "answer", "target")
FALSE = ("target_new", "target_false")
SENTENCE = ("prompt", "template", "masked_sentence", "masked_sentences")
RELATION = ("relation_id", "relation", "predicate_id")


def _facts(row: Row) -> Mapping[str, object]:
    """Return what a row says of a fact; CounterFact puts it under `requested_rewrite`."""
    inner = row.fields.get("requested_rewrite")
    return inner if isinstance(inner, dict) else row.fields


def _text(fields: Mapping[str, object], names: Sequence[str]) -> str | None:
    """Return the first text under some names; CounterFact has objects with their text as `str`."""
    for name in names:
        value = next((value for key, value in fields.items() if plain(key) == name), None)
        if isinstance(value, dict):
            value = value.get("str")
        if isinstance(value, list) and value:  # as LAMA has several wordings
            value = value[0]
        if isinstance(value, str) and value.strip():
            return value
    return None


def _fits(content: Content) -> bool:
    for row in content.good():
        fields = _facts(row)
        named = {field.name for field in fields_of(fields).values()}
        if "corrupted" in named or "corrupted_ids" in named:
            return False
        if _text(fields, SUBJECT) and _text(fields, SENTENCE) and _text(fields, TRUE):
            return True
    return False


@shape(
    "known-facts",
    summary="known facts: prompts about a subject, with what is true of it",
    keys={
        "subject": "what the prompt is about; also " + ", ".join(SUBJECT[1:]),
        "prompt": "the prompt, with the subject in it or a gap {} in its place, up to a mask, if "
        "there is one; also " + ", ".join(SENTENCE[1:]),
        "attribute": "what is true: the answer, as a text or as an object with the text under "
        "'str'; also " + ", ".join(TRUE[1:]),
        "target_new": "what is not true; a subject of which it is true is taken first; also "
        "target_false",
        "relation_id": "facts of one relation are exchanged where a sentence has one subject only",
        "requested_rewrite": "an object with these keys, as in CounterFact",
    },
    example=(
        ".json",
        '[{"known_id": 0, "subject": "Elbe", "attribute": "Germany",\n'
        '  "template": "{} flows through", "prompt": "Elbe flows through"},\n'
        ' {"known_id": 1, "subject": "Loire", "attribute": "France",\n'
        '  "template": "{} flows through", "prompt": "Loire flows through"}]\n',
    ),
    fits=_fits,
    draws=True,
    order=3,
)
def known_facts(content: Content, context: RowContext) -> Rows:
    """Form a pair from every fact whose subject can be exchanged."""
    entries: list[Single] = []
    problems: list[tuple[str, Fields | PromptError]] = []
    of_relation: dict[str, list[Single]] = defaultdict(list)
    relations: dict[Single, str] = {}
    for row in content.rows:
        try:
            entry, relation = _entry(row)
        except PromptError as error:
            problems.append((row.place, error))
            continue
        entries.append(entry)
        if relation:
            of_relation[relation].append(entry)
            relations[entry] = relation

    def elsewhere(one: Single, draw: random.Random) -> list[Single]:
        others = of_relation.get(relations.get(one, ""), [])
        chosen = draw.sample(others, min(len(others), 60))
        fit = [other for other in chosen if other.subject != one.subject]
        fit.sort(key=lambda other: other.answer != one.wanted)
        return [replace(other, prompt=one.family.replace(GAP, other.subject)) for other in fit]

    made = exchange(entries, context, elsewhere)
    families = len({one.family for one in entries})
    said = (
        f"known facts, {len(content.rows):,} of {families} sentence{'s' * (families != 1)}; the "
        "subject is exchanged for one of equally many tokens of which something else is true, "
        f"seed {context.seed}"
    )
    twin = (
        "a pair is formed of two facts at least of one sentence or relation, whose subjects have "
        "equally many tokens and whose attributes differ"
    )
    missing = made.missing(twin, "facts", entries)
    return Rows([*problems, *made.rows], said, made.left_out, missing=missing)


def _entry(row: Row) -> tuple[Single, str]:
    """Return a row's prompt, which looks for a twin, and its relation."""
    if row.error is not None:
        raise row.error
    fields = _facts(row)
    subject, true = _text(fields, SUBJECT), _text(fields, TRUE)
    sentences = [text for name in SENTENCE if (text := _text(fields, (name,)))]
    if not subject or not true or not sentences:
        lacks = [
            name
            for name, value in (("subject", subject), ("attribute", true), ("prompt", sentences))
            if not value
        ]
        raise PromptError(
            f"'{lacks[0]}' is missing or no text; found: {', '.join(fields) or found(fields)}; "
            "needed: subject, prompt and attribute."
        )
    family = next((_gap(text, subject) for text in sentences if _gap(text, subject)), "")
    if not family:
        raise PromptError(
            f"the prompt {sentences[0]!r} neither holds the subject {subject!r} nor a gap {GAP}; "
            "accepted: a prompt with one of the two."
        )
    false = _text(fields, FALSE)
    entry = Single(
        row.place, family, family.replace(GAP, subject), f" {true.strip()}", subject,
        wanted=f" {false.strip()}" if false else "", group=family,
    )  # fmt: skip
    return entry, _text(fields, RELATION) or ""


def _gap(text: str, subject: str) -> str:
    """Return a sentence with a gap for its subject; nothing if it does not name the subject."""
    text = opened(text)
    if GAP in text:
        return text
    whole = rf"(?<!\w){re.escape(subject)}(?!\w)"
    if re.search(whole, text):
        return re.sub(whole, GAP, text)
    return text.replace(subject, GAP, 1) if subject in text else ""
