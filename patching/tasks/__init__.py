"""Built-in tasks: prompt pairs made for any tokenizer.

    result = make_task("ioi", tokenizer=tokenizer, examples=32, seed=0)
    result.pairs, result.samples, str(result.report)

A task is one file here: a function that yields spaces of candidate pairs, registered with
`@task`. It is found by being in the folder.
"""

from __future__ import annotations

import importlib
import pkgutil

from ._make import Sample, TaskReport, TaskResult, format_samples, make_task, preview
from ._registry import TASKS, Task, TaskOption, describe_tasks, get_task, task
from ._space import Candidate, Pick, Space
from ._vocabulary import Vocabulary

__all__ = [
    "TASKS",
    "Candidate",
    "Pick",
    "Sample",
    "Space",
    "Task",
    "TaskOption",
    "TaskReport",
    "TaskResult",
    "Vocabulary",
    "describe_tasks",
    "format_samples",
    "get_task",
    "make_task",
    "preview",
    "task",
]

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    if not _module.startswith("_"):
        importlib.import_module(f".{_module}", __name__)
