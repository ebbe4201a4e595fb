"""Chat: messages of roles, which go through the tokenizer's chat template."""

from __future__ import annotations

from ....graphs.errors import PromptError
from ..content import Content
from ..keys import plain
from ..row_context import RowContext
from ._registry import Rows, shape

MESSAGES = ("messages", "conversation", "conversations", "clean_messages")


def _fits(content: Content) -> bool:
    return any(plain(key) in MESSAGES for key in content.names())


@shape(
    "chat",
    summary="chat: messages of roles, put through the tokenizer's chat template",
    keys={"messages": "the messages of one chat, each with a role and a content"},
    example=(
        ".jsonl",
        '{"messages": [{"role": "user", "content": "What do goats eat?"}], "answers": ["Grass"]}\n',
    ),
    fits=_fits,
    order=1,
)
def chat(content: Content, context: RowContext) -> Rows:
    """Refuse chat, which is not read yet."""
    raise PromptError(
        f"'{content.path}' holds chat ('messages'), which is not read yet; accepted: the prompts "
        "as text, put through the chat template, in pairs of clean and corrupted."
    )
