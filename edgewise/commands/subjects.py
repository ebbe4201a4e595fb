"""Prompts with a subject, as commands about facts are given them: of a task, or one as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..patching.facts.names import SUBJECT
from . import show
from .accepted import Known, all_of, option
from .flags import Flags

if TYPE_CHECKING:
    from ..session import Session
    from ..steps.facts.prompts import Facts

Function = TypeVar("Function", bound=Callable[..., Any])


def _not_empty(text: str) -> None:
    from ..graphs.errors import EdgewiseError

    if not text:
        raise EdgewiseError("it is empty; accepted: a text.")


TEXT = Known(_not_empty)

subject_options: Callable[[Function], Function] = all_of(
    option("--prompt TEXT", "In place of a task: one prompt, with --subject.", "text", type=TEXT),
    option("--subject TEXT", "The part of --prompt that it is about.", type=TEXT),
    option(
        "--answer TEXT",
        "Of --prompt, with the space before it; default: what the model says.",
        type=TEXT,
    ),
    option(
        "--span NAME",
        "Which span of a task's prompts is their subject; default subject.",
        "span",
    ),
    option("--known", "Leave out prompts that the model answers wrongly."),
)
"""What prompts with a subject are, for commands about facts."""


@dataclass(frozen=True)
class AskedFacts:
    """Which prompts are meant, and which span of them is the subject.

    `text`: one prompt, with its `subject` and `answer`; None where a task is meant.
    """

    text: str | None
    subject: str | None
    answer: str | None
    span: str = SUBJECT

    @staticmethod
    def of(flags: Flags, given: Mapping[str, Any]) -> AskedFacts:
        """Take what was given; a prompt and a task together, or neither, are refused."""
        text, task = given["text"], flags["task"]
        if (text is None) == (task is None):
            raise click.UsageError("give either --task, or --prompt with its --subject.")
        if text is not None and given["subject"] is None:
            raise click.UsageError("--prompt needs --subject, the part of it that it is about.")
        for name in ("subject", "answer") if text is None else ("span",):
            if given[name] is not None:
                belongs = "--prompt" if text is None else "--task"
                raise click.UsageError(f"--{name} belongs to {belongs}.")
        if text is not None:
            flags.task()  # refuses options of tasks
            for name in flags.only("examples", "seed", "system", "continued"):
                raise click.UsageError(f"--{name} belongs to --task.")
        return AskedFacts(text, given["subject"], given["answer"], given["span"] or SUBJECT)

    def open(self, session: Session, flags: Flags) -> Facts:
        """Open the task, or take the prompt that was written."""
        from ..steps.facts.prompts import fact_of_text, facts_of_task

        if self.text is not None and self.subject is not None:
            return fact_of_text(
                session, self.text, self.subject, self.answer,
                answers=flags["answers"], bos=flags["bos"],
            )  # fmt: skip
        task = flags.task()
        assert task is not None  # see `of`
        found = facts_of_task(session, task)
        show.understood(found.pairs.origin)
        return found


def described(prompts: Sequence[Any], name: str) -> str:
    """Say how many prompts there are, and of what; of one, which."""
    if len(prompts) > 1:
        return f"{len(prompts):,} of {name}"
    (one,) = prompts
    marked = [f"[{t}]" if i in one["subject"] else t for i, t in enumerate(one["tokens"])]
    return f"{''.join(marked)} → {one['answer']}"
