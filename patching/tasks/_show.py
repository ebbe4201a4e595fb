"""Tasks and sample pairs as people, and programs, read them."""

from __future__ import annotations

from collections.abc import Sequence

from ._make import Sample
from ._registry import TASKS

_MOST_ANSWERS = 6


def describe_tasks() -> list[dict[str, object]]:
    """Return every task's name, summary, options and whether it needs a tokenizer.

    The values are plain lists, texts and numbers, ready for JSON.
    """
    return [
        {
            "name": task.name,
            "summary": task.summary,
            "needs_tokenizer": task.needs_tokenizer,
            "options": [
                {
                    "name": option.name,
                    "default": option.default,
                    "type": "choice" if option.choices else option.kind.__name__,
                    "choices": list(option.choices),
                }
                for option in task.options
            ],
        }
        for _, task in sorted(TASKS.items())
    ]


def format_samples(samples: Sequence[Sample]) -> str:
    """Return sample pairs as text: both prompts one below the other, then the answers.

    >>> print(format_samples([Sample("1 + 1 =", "1 + 2 =", (" 2",), (" 3",), "t0")]))
    [t0]
      clean       1 + 1 =
      corrupted   1 + 2 =
      answers     ' 2'
      distractors ' 3'
    """
    return "\n".join(
        f"[{sample.group}]\n"
        f"  clean       {sample.clean}\n"
        f"  corrupted   {sample.corrupted}\n"
        f"  answers     {_answers(sample.answers)}\n"
        f"  distractors {_answers(sample.distractors)}"
        for sample in samples
    )


def _answers(texts: Sequence[str]) -> str:
    shown = " ".join(repr(text) for text in texts[:_MOST_ANSWERS])
    rest = len(texts) - _MOST_ANSWERS
    return f"{shown} … {rest} more" if rest > 0 else shown or "none"
