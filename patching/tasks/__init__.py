"""Built-in tasks: prompt pairs made for any tokenizer.

    result = make_task("ioi", tokenizer=tokenizer, examples=32, seed=0)
    result.pairs, result.samples, str(result.report)

A task is one file here, found by being there: a function under `@task` that yields spaces of pairs.
"""

from __future__ import annotations

from ..registries import registered
from ._make import Sample, TaskReport, TaskResult, format_samples, make_others, make_task, preview
from ._registry import TASKS, describe_tasks, get_task

__all__ = [
    "Sample",
    "TASKS",
    "TaskReport",
    "TaskResult",
    "describe_tasks",
    "format_samples",
    "get_task",
    "make_others",
    "make_task",
    "preview",
]

registered(TASKS, __name__)
