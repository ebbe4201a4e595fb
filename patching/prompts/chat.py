"""Chat as text: messages of roles, put through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...graphs.errors import PromptError
from .json_fields import found, shorten

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
_ASSISTANT = "assistant"


@dataclass(frozen=True)
class Chat:
    """What stands around the messages of every chat.

    `system`: a system message before them. `continued`: how the assistant's answer begins, behind
    which the answers stand.
    """

    system: str | None = None
    continued: str | None = None

    def __bool__(self) -> bool:
        return self != Chat()


def rendered(tokenizer: PreTrainedTokenizerBase, messages: object, chat: Chat) -> str:
    """Return the text that a chat template makes of messages, up to where an answer stands.

    A last message that is the assistant's is gone on with; else the template's own beginning of an
    answer stands at the end.
    """
    every = _around(_messages(messages), chat)
    goes_on = every[-1]["role"] == _ASSISTANT
    template: Any = tokenizer
    try:
        text = template.apply_chat_template(
            every,
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
    except Exception as error:  # a template says by an error of its own what it does not take
        raise PromptError(
            f"the tokenizer's chat template does not take the messages "
            f"({shorten(' '.join(str(error).split()), 200).rstrip('.')}); accepted: messages of "
            "the roles, in the order, that this model was trained on."
        ) from error
    return str(text)


def has_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def _around(messages: list[dict[str, str]], chat: Chat) -> list[dict[str, str]]:
    if chat.system is not None:
        if messages[0]["role"] == "system":
            raise PromptError(
                "the messages begin with one of the system, and `system` gives another; accepted: "
                "one of the two."
            )
        messages = [{"role": "system", "content": chat.system}, *messages]
    if chat.continued is not None:
        if messages[-1]["role"] == _ASSISTANT:
            raise PromptError(
                "the last message is the assistant's, and `continued` gives another beginning of "
                "its answer; accepted: one of the two."
            )
        messages = [*messages, {"role": _ASSISTANT, "content": chat.continued}]
    return messages


def _messages(value: object) -> list[dict[str, str]]:
    """Check messages, and write them as templates expect them."""
    if not isinstance(value, list) or not value:
        raise PromptError(
            f"the messages are {found(value)}; accepted: a list of one message or more, each with "
            'a role and a content, such as [{"role": "user", "content": "…"}].'
        )
    return [_message(number, one) for number, one in enumerate(value, start=1)]


def _message(number: int, value: object) -> dict[str, str]:
    where = f"message {number}"
    if not isinstance(value, dict):
        raise PromptError(f"{where} is {found(value)}; accepted: an object with role and content.")
    role, content = (_first(value, names) for names in (_ROLE, _CONTENT))
    if not isinstance(role, str) or not role.strip():
        raise PromptError(f"{where} has the role {found(role)}; accepted: user, assistant, system.")
    if isinstance(content, list):
        content = _joined(where, content)
    if not isinstance(content, str):
        raise PromptError(f"{where} has the content {found(content)}; accepted: a text.")
    return {"role": _ROLES.get(role, role), "content": content}


def _first(value: dict[str, object], names: Sequence[str]) -> object:
    return next((value[name] for name in names if name in value), None)


def _joined(where: str, parts: list[object]) -> str:
    """Join a content of several parts, all of which must be text."""
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            raise PromptError(
                f"{where} has a part that is no text ({shorten(found(part))}); accepted: text only."
            )
        texts.append(text)
    return "".join(texts)
