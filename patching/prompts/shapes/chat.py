"""Chat: messages of roles, which go through the tokenizer's chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from ....graphs.errors import PromptError
from ..chat import has_template, rendered
from ..content import Content, Row, literal
from ..json_fields import shorten
from ..keys import fields_of, plain, side_of
from ..row_context import RowContext, WholeFile
from ._registry import Rows, shape
from .pairs import pairs

MESSAGES = ("messages", "conversation", "conversations", "dialogue", "dialog", "turns")
TWIN = "corrupted_messages"
LINE: dict[str, object] = {
    "messages": [{"role": "user", "content": "…"}],
    "corrupted_messages": [{"role": "user", "content": "…"}],
    "answers": ["…"],
}


def is_chat(content: Content) -> bool:
    """Tell whether some row has messages, under a name of theirs or as its prompt."""
    if any(map(_side, content.names())):
        return True
    return any(_prompts_of_messages(row.fields) for row in content.good())


def _side(key: str) -> str | None:
    """Return which prompt the messages under a key are of; None if the key is not called so.

    >>> _side("messages"), _side("conversation_corrupted"), _side("message_count")
    ('clean', 'corrupted', None)
    """
    words = frozenset(plain(key).split("_"))
    return side_of(words.difference(MESSAGES)) if words & set(MESSAGES) else None


def _prompts_of_messages(fields: Mapping[str, object]) -> dict[str, str]:
    """Map the keys of prompts that are lists of messages to the prompt they give."""
    known = fields_of(fields)
    return {
        key: known[key].name
        for key in known
        if known[key].name in ("clean", "corrupted") and _are_messages(fields[key])
    }


def _are_messages(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and {"role", "from"} & set(one) for one in value)
    )


@shape(
    "chat",
    summary="chat: messages of roles, put through the tokenizer's chat template",
    keys={
        "messages": "the messages of one chat, each with a role and a content; also "
        + ", ".join(MESSAGES[1:])
        + ", such names with clean, and names of the clean prompt",
        TWIN: "those of the corrupted prompt; also such names with corrupt or counterfactual, and "
        "names of the corrupted prompt",
        "answers": "what the assistant answers, without a space before it; and all other fields of "
        "pairs",
    },
    example=(
        ".jsonl",
        '{"messages": [{"role": "user", "content": "What do goats eat?"}], "answers": ["Grass"]}\n',
    ),
    fits=is_chat,
    order=1,
    chat=True,
)
def chat(content: Content, context: RowContext) -> Rows:
    """Return rows whose prompts are what the template makes of the messages."""
    context.tokens()  # refused once if there is no tokenizer
    assert context.tokenizer is not None
    if not has_template(context.tokenizer):
        raise WholeFile(
            "holds chat, and this model's tokenizer has no chat template; accepted: a `model` "
            "whose tokenizer has one, as those of instructed models do, or prompts as text."
        )
    rows = tuple(_as_text(row, context) for row in content.rows)
    header = tuple(dict.fromkeys(key for row in rows for key in row.fields))
    made = pairs(replace(content, rows=rows, header=header if content.is_table else ()), context)
    around = context.chat
    words = ["chat, through the tokenizer's template"]
    words += [] if around.system is None else ["a system message before each"]
    words += [] if around.continued is None else [f"answers behind {around.continued!r}"]
    made.said, made.native = f"{', '.join(words)}: {made.said}", False
    return made


def _as_text(row: Row, context: RowContext) -> Row:
    """Return a row with its messages as text, or why that cannot be."""
    fields = dict(row.fields)
    try:
        for key, name in _prompts_of_messages(fields).items():
            usual = MESSAGES[0] if name == "clean" else TWIN
            if usual not in fields:
                fields[usual] = fields.pop(key)
        for key, field in fields_of(fields).items():  # an answer as the message that it is
            value = fields[key]
            if field.name in ("answers", "distractors") and _are_messages(value):
                assert isinstance(value, list)
                fields[key] = [one.get("content", one.get("value")) for one in value]
        for name in ("clean", "corrupted"):
            keys = [key for key in fields if _side(key) == name]
            if len(keys) > 1:
                raise PromptError(f"'{keys[0]}' and '{keys[1]}' are both given; accepted: one.")
            if keys:
                messages = fields.pop(keys[0])
                if isinstance(messages, str):  # in a table's cell
                    messages = _parsed(keys[0], messages)
                _refuse_both(name, fields, keys[0])
                assert context.tokenizer is not None  # `chat` has looked
                fields[name] = rendered(context.tokenizer, messages, context.chat)
        named = {field.name for field in fields_of(fields).values()}
        if not named & {"answers", "answer_ids"}:
            raise PromptError(
                f"has no answers; found: {', '.join(row.fields)}. Write, for example, "
                f"{json.dumps(_line(row.fields), ensure_ascii=False)}"
            )
    except PromptError as error:
        return replace(row, error=row.error or error)
    return replace(row, fields=fields)


def _line(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the line to write: if the assistant has the last word, that is the answer."""
    messages = next((fields[key] for key in fields if _side(key) == "clean"), None)
    if not _are_messages(messages):
        return LINE
    assert isinstance(messages, list)
    *before, last = messages
    said = last.get("content", last.get("value"))
    if last.get("role", last.get("from")) not in ("assistant", "gpt") or not before:
        return LINE
    answer = shorten(said, 60) if isinstance(said, str) else "…"
    return {**LINE, "messages": _short(before), "answers": [answer]}


def _short(messages: list[dict[str, object]]) -> list[dict[str, object]]:
    return [
        {key: shorten(text, 60) if isinstance(text, str) else "…" for key, text in one.items()}
        for one in messages[-2:]
    ]


def _refuse_both(name: str, fields: dict[str, object], key: str) -> None:
    other = next((k for k, one in fields_of(fields).items() if one.name == name), None)
    if other is not None:
        raise PromptError(f"'{key}' and '{other}' both give the {name} prompt; accepted: one.")


def _parsed(key: str, cell: str) -> object:
    try:
        found: object = json.loads(cell)
    except (ValueError, RecursionError):
        listed = literal(cell)
        if listed is not None:
            return listed
        raise PromptError(f"'{key}' is no JSON list of messages.") from None
    return found
