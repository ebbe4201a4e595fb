"""Masked sentences, as the box tasks of entity tracking have them.

The prompt is what stands before the mask, the answer what it stands for. Another line's prompt of
equally many tokens with another answer becomes the corrupted twin, of several the most alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....graphs.errors import PromptError
from ..content import Content
from ..json_fields import found
from ..keys import fields_of, plain
from ..row_context import RowContext
from ._exchange import Single, exchange
from ._gaps import MASK
from ._registry import Fields, Rows, shape

SENTENCE = ("sentence_masked", "masked_sentence", "masked_text", "masked_prompt")
ANSWER = ("masked_content", "mask_content", "masked_answer", "masked_word", "masked_token")
WHERE_MASKED = ("sentence", "text", "input", "prompt", "question", "context", "query")
"""Names of the sentence where it has a mask."""
OF_MASK = ("obj_label", "answer", "answers", "target", "label", "output", "completion", "gold")
"""Names of what the mask stands for beside such a sentence."""


def _named(fields: Mapping[str, object], names: tuple[str, ...]) -> object:
    return next((value for key, value in fields.items() if plain(key) in names), None)


def _sentence(fields: Mapping[str, object]) -> object:
    """Return a row's sentence: under a name of its own, or under a usual one if it has a mask."""
    own = _named(fields, SENTENCE)
    if own is not None:
        return own[0] if isinstance(own, list) and own else own
    usual = _named(fields, WHERE_MASKED)
    return usual if isinstance(usual, str) and MASK.search(usual) else None


def _content(fields: Mapping[str, object]) -> object:
    """Return what stands for the mask, of a list the first."""
    own = _named(fields, ANSWER)
    found = _named(fields, OF_MASK) if own is None else own
    return found[0] if isinstance(found, list) and found else found


def _fits(content: Content) -> bool:
    named = {field.name for field in fields_of(content.names()).values()}
    if named & {"corrupted", "corrupted_ids"}:
        return False
    return any(
        _sentence(row.fields) is not None and _content(row.fields) is not None
        for row in content.good()
    )


@shape(
    "masked",
    summary="masked sentences: box tasks, whose prompt is what stands before the mask",
    keys={
        "sentence_masked": "a sentence with a mask, <extra_id_0>, [MASK], <mask> or ___; also "
        + ", ".join(SENTENCE[1:])
        + ", and if they have a mask "
        + ", ".join(WHERE_MASKED),
        "masked_content": "what the mask stands for: the answer; also "
        + ", ".join((*ANSWER[1:], *OF_MASK)),
    },
    example=(
        ".jsonl",
        '{"sentence_masked": "Box A has the pen, Box B has the cup. Box B has the <extra_id_0>", '
        '"masked_content": "<extra_id_0> cup"}\n'
        '{"sentence_masked": "Box A has the key, Box B has the hat. Box B has the <extra_id_0>", '
        '"masked_content": "<extra_id_0> hat"}\n',
    ),
    fits=_fits,
    draws=True,
    order=4,
)
def masked(content: Content, context: RowContext) -> Rows:
    """Form a pair from every line that has a twin among the others."""
    entries: list[Single] = []
    problems: list[tuple[str, Fields | PromptError]] = []
    for row in content.rows:
        try:
            if row.error is not None:
                raise row.error
            prompt, answer = _prompt(row.fields)
        except PromptError as error:
            problems.append((row.place, error))
        else:
            entries.append(Single(row.place, "", prompt, answer))
    made = exchange(entries, context)
    said = (
        f"masked sentences, {len(content.rows):,}; the prompt is what stands before the mask, its "
        "corrupted twin another line's of equally many tokens with another answer, seed "
        f"{context.seed}"
    )
    twin = "a corrupted twin is another line's prompt of equally many tokens with another answer"
    missing = made.missing(twin, "lines", entries)
    return Rows([*problems, *made.rows], said, made.left_out, missing=missing)


def _prompt(fields: Mapping[str, object]) -> tuple[str, str]:
    """Return a row's prompt and answer."""
    sentence, content = _sentence(fields), _content(fields)
    for name, value in ((SENTENCE[0], sentence), (ANSWER[0], content)):
        if not isinstance(value, str) or not value.strip():
            said = "missing" if value is None else found(value)
            raise PromptError(f"'{name}' is {said}; accepted: a text.")
    mask = MASK.search(str(sentence))
    if mask is None:
        raise PromptError(
            f"'{SENTENCE[0]}' has no mask; accepted: one mask, <extra_id_0>, where the answer is."
        )
    before = str(sentence)[: mask.start()]
    pieces = [piece.strip() for piece in MASK.split(str(content)) if piece.strip()]
    if not before.strip() or not pieces:
        raise PromptError(
            f"nothing stands {'before the mask' if pieces else 'for the mask'}; accepted: a "
            "prompt before the mask and an answer in its place."
        )
    space = " " if before != before.rstrip() or str(content)[:1] == " " else ""
    return before.rstrip(), f"{space}{pieces[0]}"
