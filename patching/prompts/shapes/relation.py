"""A relation: sentences with a gap, and subjects with what stands in the relation to them.

Pairs are formed by exchanging the subject for one of equally many tokens with another object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ....graphs.errors import PromptError
from ..content import Content
from ..json_fields import found, shorten
from ..row_context import RowContext
from ._exchange import Single, exchange
from ._registry import Rows, shape

TEMPLATES = ("prompt_templates", "templates", "prompt_template", "template", "prompt_templates_zs")
SAMPLES = ("samples", "examples", "data", "items")
SUBJECT = ("subject", "sub_label")
OBJECT = ("object", "obj_label")
GAP = "{}"
_GAPS = re.compile(r"\{\}|\{0\}|\{subject\}|\[X\]")
_ENDS = re.compile(r"\s*(\{1\}|\{object\}|\[Y\]).*", re.DOTALL)


def _sentences(holder: Mapping[str, object]) -> list[str]:
    """List all that is under a key for sentences, each once, in the order of the keys."""
    texts: dict[str, None] = {}
    for key in TEMPLATES:
        value = holder.get(key)
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            if isinstance(text, str) and text.strip():
                texts[text] = None
    return list(texts)


def _templates(holder: Mapping[str, object]) -> list[str]:
    """List the sentences that have a gap for the subject, written {}, up to where the object is."""
    found = [_ENDS.sub("", _GAPS.sub(GAP, text)).rstrip() for text in _sentences(holder)]
    return list(dict.fromkeys(text for text in found if GAP in text))


def _either(sample: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((sample[name] for name in names if name in sample), None)


def _is_sample(row: object) -> bool:
    return isinstance(row, Mapping) and None not in (_either(row, SUBJECT), _either(row, OBJECT))


def _relations(content: Content) -> Iterator[tuple[str, Mapping[str, object], list[object]]]:
    """Yield where each relation stands, what it says, and its samples."""
    plain = (_is_sample(row) and not _sentences(row) for row in (r.fields for r in content.good()))
    if _sentences(content.shared) or ("prompt" not in content.names() and any(plain)):
        yield "", content.shared, [row.fields for row in content.rows]
        return
    for row in content.good():
        samples = next((row.fields[key] for key in SAMPLES if key in row.fields), None)
        if _sentences(row.fields) and isinstance(samples, list):
            yield f"{row.place}, ", row.fields, samples


def _fits(content: Content) -> bool:
    return any(any(map(_is_sample, samples)) for _, _, samples in _relations(content))


@shape(
    "relation",
    summary="a relation: sentences with a gap {}, and subjects with their objects",
    keys={
        "prompt_templates": "sentences with a gap {} or [X] for the subject, which end where the "
        "object is to be said, or have {object} or [Y] there; also templates, prompt_template, "
        "template",
        "prompt_templates_zs": "more of them",
        "samples": "the list of samples, each with a subject and an object",
        "subject": "what is put into the gap; also sub_label",
        "object": "what is to be said of it: the answer; of a list the first; also obj_label",
    },
    example=(
        ".json",
        '{"name": "river in country", "prompt_templates": ["{} flows through"],\n'
        ' "samples": [{"subject": "Elbe", "object": "Germany"},\n'
        '             {"subject": "Loire", "object": "France"}]}\n',
    ),
    fits=_fits,
    draws=True,
    order=2,
)
def relation(content: Content, context: RowContext) -> Rows:
    """Form a pair from every sample and sentence whose subject can be exchanged."""
    entries: list[Single] = []
    problems: list[tuple[str, dict[str, object] | PromptError]] = []
    relations = list(_relations(content))
    for where, about, samples in relations:
        if not _templates(about):
            raise PromptError(
                f"'{content.path}' has no sentence with a gap for the subject; found: "
                f"{shorten(', '.join(map(repr, _sentences(about))) or 'none', 100)}; accepted "
                f"under '{TEMPLATES[0]}': such as '{GAP} flows through', which ends where the "
                "object is to be said."
            )
        name = about.get("name")
        prefix = f"{name}: " if isinstance(name, str) and len(relations) > 1 else ""
        for number, sample in enumerate(samples, start=1):
            place = f"{where}sample {number}"
            if not _is_sample(sample):
                said = "it has no subject and object" if isinstance(sample, dict) else found(sample)
                why = f"is no sample ({said}); accepted: an object with a subject and an object."
                problems.append((place, PromptError(why)))
                continue
            assert isinstance(sample, dict)
            subject, objects = _either(sample, SUBJECT), _either(sample, OBJECT)
            first = objects[0] if isinstance(objects, list) and objects else objects
            if not (isinstance(subject, str) and isinstance(first, str) and subject and first):
                why = f"its subject is {found(subject)}, its object {found(objects)}"
                problems.append((place, PromptError(f"{why}; accepted: texts.")))
                continue
            for template in _templates(about):
                prompt = template.replace(GAP, subject).rstrip()
                answer = f" {first.strip()}"
                entries.append(
                    Single(place, f"{where}{template}", prompt, answer, subject,
                          group=f"{prefix}{template}")
                )  # fmt: skip
    made = exchange(entries, context)
    sentences = sum(len(_templates(about)) for _, about, _ in relations)
    names = [str(about["name"]) for _, about, _ in relations if isinstance(about.get("name"), str)]
    called = f" '{names[0]}'" if len(names) == len(relations) == 1 else ""
    many = f"{len(relations)} relations" if len(relations) > 1 else f"relation{called}"
    count = sum(len(samples) for _, _, samples in relations)
    said = (
        f"{many}, {sentences} sentence{'s' * (sentences != 1)}, {count} samples; the subject is "
        f"exchanged for one of equally many tokens with another object, seed {context.seed}"
    )
    twin = (
        "a pair is formed of two samples at least, whose subjects have equally many tokens and "
        "whose objects differ"
    )
    missing = made.missing(twin, "samples", entries)
    return Rows([*problems, *made.rows], said, made.left_out, missing=missing)
