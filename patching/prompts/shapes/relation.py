"""A relation: sentences with a gap, and subjects with what stands in the relation to them.

Pairs are formed by exchanging the subject for one of equally many tokens with another object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ....graphs.errors import PromptError
from ..content import Content
from ..json_fields import found, shorten
from ..row_context import RowContext
from ._exchange import Single, exchange
from ._gaps import GAP, opened
from ._registry import Rows, shape

TEMPLATES = ("prompt_templates", "templates", "prompt_template", "template", "prompt_templates_zs",
             "prompts", "prompt", "sentences", "sentence")  # fmt: skip
SAMPLES = ("samples", "examples", "data", "items", "pairs", "facts")
SUBJECT = ("subject", "sub_label", "subj", "sub", "head", "entity", "input", "x")
OBJECT = ("object", "obj_label", "obj", "answer", "target", "attribute", "tail", "output", "y")
SURE = 3
"""How many of the names of subjects and objects mean such where no sentence stands beside them."""


def _sentences(holder: Mapping[str, object]) -> list[str]:
    """List all that is under a key for sentences, each once, in the order of the keys.

    `prompts` may be whole ones; they count if one of them has a gap.
    """
    texts: dict[str, None] = {}
    for key in TEMPLATES:
        value = holder.get(key)
        every = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        found = [text for text in every if isinstance(text, str) and text.strip()]
        if "template" in key or any(GAP in opened(text) for text in found):
            texts |= dict.fromkeys(found)
    return list(texts)


def _templates(holder: Mapping[str, object]) -> list[str]:
    """List the sentences that have a gap for the subject, written {}, up to where the object is."""
    return list(dict.fromkeys(one for text in _sentences(holder) if GAP in (one := opened(text))))


def _either(sample: Mapping[str, object], names: Sequence[str]) -> object:
    return next((sample[name] for name in names if name in sample), None)


def _is_sample(row: object, names: int | None = None) -> bool:
    if not isinstance(row, Mapping):
        return False
    return None not in (_either(row, SUBJECT[:names]), _either(row, OBJECT[:names]))


def _samples(holder: Mapping[str, object]) -> list[object] | None:
    """List the samples under a key for them, each as an object; None if there is no such key.

    They may be [subject, object], or stand as one object, subjects as keys and objects as values,
    or as two lists.
    """
    subjects, objects = holder.get("subjects"), holder.get("objects")
    if isinstance(subjects, list) and isinstance(objects, list) and len(subjects) == len(objects):
        return [_sample(pair) for pair in zip(subjects, objects, strict=True)]
    value = next((holder[key] for key in SAMPLES if key in holder), None)
    if isinstance(value, Mapping):
        value = [*value.items()]
    return [_sample(one) for one in value] if isinstance(value, list) else None


def _sample(one: object) -> object:
    if isinstance(one, list | tuple) and len(one) == 2:
        return {"subject": one[0], "object": one[1]}
    return one


def _relations(content: Content) -> Iterator[tuple[str, Mapping[str, object], list[object]]]:
    """Yield where each relation stands, what it says, and its samples."""
    rows = [row.fields for row in content.good()]
    plain = (_is_sample(row, SURE) and not _sentences(row) for row in rows)
    own = {"prompt", "masked_sentence", "masked_sentences"} & set(content.names())
    if _sentences(content.shared) or (not own and any(plain)):
        yield "", content.shared, [row.fields for row in content.rows]
        return
    for row in content.good():
        where = "" if len(content.rows) == 1 else f"{row.place}, "
        samples = _samples(row.fields)
        if _templates(row.fields) and samples is not None:
            yield where, row.fields, samples
        elif row.fields and all(GAP in opened(key) for key in row.fields):  # sentences as keys
            for text, under in row.fields.items():
                found = _samples({SAMPLES[0]: under})
                if found is not None:
                    yield f"{where}{text!r}, ", {TEMPLATES[0]: text}, found


def _fits(content: Content) -> bool:
    if any(any(map(_is_sample, samples)) for _, _, samples in _relations(content)):
        return True
    return any(
        _templates(row.fields) and _samples(row.fields) is not None for row in content.good()
    )


@shape(
    "relation",
    summary="a relation: sentences with a gap {}, and subjects with their objects",
    keys={
        "prompt_templates": "sentences with a gap for the subject ({}, {subject}, [X], <subject>, "
        "%s), which end where the object is to be said, or have {object} or [Y] there; also "
        "templates, prompt_template, template, prompt",
        "prompt_templates_zs": "more of them",
        "samples": "the samples: objects with a subject and an object, lists of the two, or one "
        "object, subjects as keys; also " + ", ".join(SAMPLES[1:]) + ", or two lists, subjects and "
        "objects",
        "subject": "what is put into the gap; also " + ", ".join(SUBJECT[1:]),
        "object": "what is to be said of it: the answer; of a list the first; also "
        + ", ".join(OBJECT[1:]),
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
    relations, without = list(_relations(content)), 0
    for where, about, samples in relations:
        if not _templates(about):
            raise PromptError(
                f"'{content.path}' has no sentence with a gap for the subject; found: "
                f"{shorten(', '.join(map(repr, _sentences(about))) or 'none', 100)}; accepted "
                f"under '{TEMPLATES[0]}': such as '{GAP} flows through', which ends where the "
                f'object is to be said. Write, for example, {{"{TEMPLATES[0]}": '
                f'["{GAP} flows through"], "{SAMPLES[0]}": [["Elbe", "Germany"], …]}}, or give '
                "each subject and object its 'template'."
            )
        if gone := len(set(_sentences(about))) - len(_templates(about)):
            without += gone
        name = about.get("name")
        prefix = f"{name}: " if isinstance(name, str) and len(relations) > 1 else ""
        for number, sample in enumerate(samples, start=1):
            place = f"{where}sample {number}"
            if not _is_sample(sample):
                said = "it has no subject and object" if isinstance(sample, dict) else found(sample)
                why = (
                    f"is no sample ({said}); accepted: an object with a subject and an object, or "
                    'a list of the two, such as ["Elbe", "Germany"].'
                )
                problems.append((place, PromptError(why)))
                continue
            assert isinstance(sample, dict)
            subject, objects = _either(sample, SUBJECT), _either(sample, OBJECT)
            first = objects[0] if isinstance(objects, list) and objects else objects
            first = _text(first)
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
    unused = f" ({without} without a gap not used)" if without else ""
    said = (
        f"{many}, {sentences} sentence{'s' * (sentences != 1)}{unused}, {count} samples; the "
        "subject is exchanged for one of equally many tokens with another object, seed "
        f"{context.seed}"
    )
    twin = (
        "a pair is formed of two samples at least, whose subjects have equally many tokens and "
        "whose objects differ"
    )
    missing = made.missing(twin, "samples", entries)
    return Rows([*problems, *made.rows], said, made.left_out, missing=missing)


def _text(value: object) -> object:
    """Return a number as its text, as a year or an atom's number; else the value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if number else value
