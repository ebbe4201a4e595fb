"""The attributes rate by layer, of subjects whose attributes a file lists.

The file is JSON: an object of subjects, each with a text about it or a list of texts, such as
single words: {"France": ["Paris", "French", "a country in Europe"]}. A subject is found by its text
in the prompt, whatever its capitals.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...discovery.uncertainty.bootstrap import UNDEFINED, mean_estimate
from ...graphs.calls.typed import short_value, typed
from ...graphs.errors import PromptError
from ...graphs.files.reading import parse_json, read_text
from ...graphs.files.tables.knockout import AttributeRow
from ...patching.facts.attributes import attribute_rates, token_words, words_in
from ...patching.facts.prompts import FactPrompt
from ...patching.prompts.tokens import Tokens
from ...session import Session
from .prompts import clusters_of_prompts

SHAPE = '{"France": ["Paris", "French", "a country in Europe"]}'


@typed
def read_attributes(path: str | Path) -> dict[str, frozenset[str]]:
    """Read the words of texts about subjects, by the subjects in lower case.

    Raises:
        PromptError: the file is no object of subjects with texts.
    """
    what = "a file of attributes"
    document = parse_json(path, read_text(path, what), what)
    if not isinstance(document, Mapping) or not document:
        raise PromptError(f"{path} is no object of subjects; accepted: such as {SHAPE}.")
    found: dict[str, frozenset[str]] = {}
    for subject, given in document.items():
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise PromptError(
                f"{path}: what it says of '{subject}' is {short_value(given)}; accepted: a text, "
                f"or a list of texts, such as {SHAPE}."
            )
        own = words_in(texts) - words_in([str(subject)])
        found[str(subject).strip().lower()] = own
    return found


@typed
def attribute_rows(
    session: Session,
    prompts: Sequence[FactPrompt],
    attributes: Mapping[str, frozenset[str]],
    top: int,
) -> tuple[list[AttributeRow], tuple[str, ...]]:
    """Return the mean attributes rate behind each layer, and notes.

    Raises:
        PromptError: no tokenizer; a subject of none of the prompts is listed; `top` is too large.
    """
    tokenizer, size = session.loaded.tokenizer, len(session.lifted.unembed.weight)
    if tokenizer is None:
        raise PromptError(
            "attributes are words, and this model has no tokenizer; accepted: models with one."
        )
    if not 1 <= top <= size:
        raise PromptError(f"top is {top}; accepted: 1 to {size:,}, as many as there are tokens.")
    tokens, by_subject = Tokens(tokenizer), defaultdict(list)
    for prompt in prompts:
        text = tokens.text([prompt.pair.clean[at] for at in prompt.subject]).strip()
        by_subject[text.lower()].append(prompt)
    known = {name: attributes[name] for name in by_subject if name in attributes}
    if not known:
        raise PromptError(
            f"none of the prompts' subjects ({', '.join(sorted(by_subject)[:5])}) is among those "
            f"with attributes ({', '.join(sorted(attributes)[:5])}); accepted: the same texts."
        )
    notes = list[str]()
    if missing := sorted(by_subject.keys() - known.keys()):
        notes.append(f"no attributes are listed of {', '.join(missing[:8])}.")
    if len(known) == 1:
        notes.append("one subject has attributes, so that no others' stand beside.")
    named = tokenizer.convert_ids_to_tokens(list(range(min(size, len(tokenizer)))))
    marks = [str(mark) for mark in named] + [""] * (size - len(named))
    words = token_words(marks)
    found = attribute_rates(session.lifted, by_subject, known, words, top)
    clusters = clusters_of_prompts([one.prompt for one in found])
    rows = []
    for layer in range(len(found[0].own)):
        own = mean_estimate(np.array([one.own[layer] for one in found]), clusters)
        rest = np.array([one.others[layer] for one in found])
        known_rest = bool(np.isfinite(rest).all())
        others = (mean_estimate(rest, clusters) if known_rest else UNDEFINED).numbers
        rate, low, high = own.numbers
        assert rate is not None  # a mean is always there
        rows.append(
            AttributeRow(
                layer=layer, rate=rate, low=low, high=high, others=others[0],
                others_low=others[1], others_high=others[2], prompts=len(found),
            )
        )  # fmt: skip
    return rows, tuple(notes)
