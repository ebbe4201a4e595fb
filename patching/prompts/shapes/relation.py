"""A relation: sentences with a gap, and subjects with what stands in the relation to them.

Pairs are formed by exchanging the subject for one of equally many tokens with another object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ....graphs.errors import PromptError
from ..content import Content
from ..json_fields import found
from ..row_context import RowContext
from ._exchange import Single, exchange
from ._registry import Rows, shape
from .pairs import line_to_write

TEMPLATES = ("prompt_templates", "templates", "prompt_template", "template", "prompt_templates_zs")
SAMPLES = ("samples", "examples", "data", "items")
GAP = "{}"


def _templates(holder: Mapping[str, object]) -> list[str]:
    """List the sentences with a gap, each once, those of each key after the other."""
    texts: dict[str, None] = {}
    for key in TEMPLATES:
        value = holder.get(key)
        for text in [value] if isinstance(value, str) else value if isinstance(value, list) else ():
            if isinstance(text, str) and GAP in text:
                texts[text] = None
    return list(texts)


def _is_sample(row: object) -> bool:
    return isinstance(row, Mapping) and "subject" in row and "object" in row


def _relations(content: Content) -> Iterator[tuple[str, Mapping[str, object], list[object]]]:
    """Yield where each relation stands, what it says, and its samples."""
    if _templates(content.shared):
        yield "", content.shared, [row.fields for row in content.rows]
        return
    for row in content.good():
        samples = next((row.fields[key] for key in SAMPLES if key in row.fields), None)
        if _templates(row.fields) and isinstance(samples, list):
            yield f"{row.place}, ", row.fields, samples


def _fits(content: Content) -> bool:
    return any(any(map(_is_sample, samples)) for _, _, samples in _relations(content))


@shape(
    "relation",
    summary="a relation: sentences with a gap {}, and subjects with their objects",
    keys={
        "prompt_templates": "sentences with a gap {} for the subject, which end where the object "
        "is to be said; also templates, prompt_template, template",
        "prompt_templates_zs": "more of them",
        "samples": "the list of samples, each with a subject and an object",
        "subject": "what is put into the gap",
        "object": "what is to be said of it: the answer",
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
            subject, objects = sample["subject"], sample["object"]
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
    first = entries[0] if entries else Single("", "", "…", "…")
    missing = (
        "a pair is formed of two samples at least, whose subjects have equally many tokens and "
        "whose objects differ and are one token each"
    )
    return Rows([*problems, *made.rows], said, made.left_out, missing=_line(missing, first))


def _line(missing: str, entry: Single) -> str:
    row = {"clean": entry.prompt, "answers": [entry.answer]}
    return f"{missing}. Add such samples, or write pairs, such as {line_to_write(row)}"
