"""Chat: messages of roles, which go through the tokenizer's chat template."""

from __future__ import annotations

import json
from dataclasses import replace

from ....graphs.errors import PromptError
from ..chat import has_template, rendered
from ..content import Content, Row
from ..keys import fields_of, plain
from ..row_context import RowContext, WholeFile
from ._registry import Rows, shape
from .pairs import pairs

MESSAGES = ("messages", "clean_messages", "conversation", "conversations")
TWIN = ("corrupted_messages", "corrupt_messages", "counterfactual_messages",
        "corrupted_conversation", "corrupted_conversations")  # fmt: skip
LINE = {
    "messages": [{"role": "user", "content": "…"}],
    "corrupted_messages": [{"role": "user", "content": "…"}],
    "answers": ["…"],
}


def is_chat(content: Content) -> bool:
    """Tell whether some row has messages."""
    return any(plain(key) in MESSAGES for key in content.names())


@shape(
    "chat",
    summary="chat: messages of roles, put through the tokenizer's chat template",
    keys={
        "messages": "the messages of one chat, each with a role and a content; also "
        + ", ".join(MESSAGES[1:]),
        "corrupted_messages": "those of the corrupted prompt; also " + ", ".join(TWIN[1:]),
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
    made = pairs(replace(content, rows=rows), context)
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
        for names, name in ((MESSAGES, "clean"), (TWIN, "corrupted")):
            keys = [key for key in fields if plain(key) in names]
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
                f"{json.dumps(LINE, ensure_ascii=False)}"
            )
    except PromptError as error:
        return replace(row, error=row.error or error)
    return replace(row, fields=fields)


def _refuse_both(name: str, fields: dict[str, object], key: str) -> None:
    other = next((k for k, one in fields_of(fields).items() if one.name == name), None)
    if other is not None:
        raise PromptError(f"'{key}' and '{other}' both give the {name} prompt; accepted: one.")


def _parsed(key: str, cell: str) -> object:
    try:
        found: object = json.loads(cell)
    except (ValueError, RecursionError):
        raise PromptError(f"'{key}' is no JSON list of messages.") from None
    return found
