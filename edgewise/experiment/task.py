"""Which prompt pairs are meant: those a built-in task makes, or those of a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError, PromptError, UnknownName, unknown
from ..graphs.files.places import possible_places
from ..graphs.files.reading import is_there
from ..patching.prompts.answers import WAYS
from ..patching.prompts.content import ENDINGS
from ..patching.tasks import TASKS, get_task
from .parts import (
    Count,
    Flag,
    Part,
    Text,
    Uncounted,
    Whole,
    Word,
    each,
    not_known,
    one_of,
    part,
    refused,
)

if TYPE_CHECKING:
    from ..graphs.files.circuit import CircuitFile

EXAMPLES = 64
"""How many pairs a built-in task makes if nothing is said."""

TAKEN = ("answers", "system", "continued")
"""Fields that say how the answers and the messages of a file are taken."""

CHOICES_OF_PAIRS = ("length", "groups")
"""Options that every built-in task has: pairs of this many tokens only, of these templates only."""


@part
class TaskSpec(Part):
    """Say which prompt pairs are meant: those a built-in task makes, or those of a file.

    `examples`: how many a circuit is found on; of a file, None means all that are not held out.
    `test`: how many others are held out to measure it on, 0 for none; None means as many (see
    `patching.prompts.splits` for those of a file). `options` are of built-in tasks; so is `seed`,
    and of files whose pairs are formed from what stands in them. `answers`: how those of several
    tokens are taken, `first` or `whole`. `system`, `continued`: of files of chat, a system message
    before the others and the beginning of the assistant's answer. `spans`: circuits tell named
    spans of the prompts' positions apart.
    """

    refused_as: ClassVar[type[EdgewiseError]] = PromptError

    name: Word = ""
    file: Annotated[Text | None, Uncounted("where the pairs are; their hash counts")] = Field(
        default=None, validate_default=True
    )
    examples: Count | None = Field(default=None, validate_default=True)
    test: Whole | None = None
    seed: Whole | None = Field(default=None, validate_default=True)
    bos: Flag | None = None
    options: Mapping[str, Any] = Field(default_factory=dict)
    answers: Annotated[Word, one_of(lambda: WAYS)] | None = None
    system: Text | None = None
    continued: Text | None = None
    spans: Flag = False

    def __post_init__(self) -> None:
        if self.file is not None and not self.name:
            object.__setattr__(self, "name", Path(self.file).stem)

    @staticmethod
    @typed
    def named(task: str, **fields: Any) -> TaskSpec:
        """Return the part for what a user types: a built-in task's name, or a file's.

        Raises:
            UnknownName: there is no such task, or field, or option.
            PromptError: the file cannot be read, or a value makes no sense.
        """
        check_task(task, fields.get("options"))
        return TaskSpec(file=task, **fields) if is_file(task) else TaskSpec(task, **fields)

    @staticmethod
    @typed
    def of_circuit(file: CircuitFile) -> TaskSpec:
        """Return the part that makes a circuit's prompt pairs again, if its file says enough."""
        block = file.task
        task = block.get("file") or block["name"]
        how: dict[str, Any] = {key: block.get(key) for key in ("examples", "bos", "seed", *TAKEN)}
        how["spans"] = bool(block.get("spans"))
        test = block.get("test")
        asked = None if test is None else test.get("asked")
        if asked is not None and test is not None:
            how["test"] = asked["test"]
            if "file" in block:  # whose pairs are parted by these numbers and this seed
                how["examples"] = asked["examples"]
                how["seed"] = block.get("seed") or test.get("seed")
        if not task:
            raise EdgewiseError(
                "the circuit's file names no task; say with `task` which one to use."
            )
        if "file" in block:
            found = possible_places(task, block.get("paths"), file.path)[0]
            return TaskSpec.of(file=found, **how)
        return TaskSpec.named(task, options=block.get("options") or {}, **how)

    @property
    def taken(self) -> dict[str, str]:
        """Return how answers and chat are taken, where anything is said of it."""
        return {key: value for key in TAKEN if (value := getattr(self, key)) is not None}

    @property
    def reference(self) -> str:
        """Return what a user types for it."""
        return self.file or self.name

    def surroundings(self) -> dict[str, object]:
        """Return the version of the library that tokenizes."""
        from importlib.metadata import version

        return {"transformers": version("transformers")}

    @field_validator("file")
    @classmethod
    def _named(cls, file: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name")
        if file is None and name == "":
            raise PydanticCustomError("missing", "missing", {"at": "name"})
        if file is None and name is not None and name not in TASKS:
            raise not_known(TASKS, found=name, at="name")
        return file

    @field_validator("examples", "seed")
    @classmethod
    def _of_built_in(cls, value: int | None, info: ValidationInfo) -> int | None:
        if info.data.get("file") is not None:
            return value or None  # of a file, a seed of 0 is what counts if nothing is said
        return value if value is not None else 0 if info.field_name == "seed" else EXAMPLES

    @field_validator("system", "continued")
    @classmethod
    def _of_chat(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("file") is None:
            raise refused(
                f"`{info.field_name}` is of files of chat (messages); built-in tasks are no chat."
            )
        return value

    @field_validator("options", mode="before")
    @classmethod
    def _options(cls, options: object, info: ValidationInfo) -> object:
        def checked(key: str, value: object) -> dict[str, object]:
            own, choice = check_options(info.data.get("name", ""), {key: value})
            return {} if value is None else own | choice

        return {} if info.data.get("file") else each(options, checked)


@typed
def is_file(task: str) -> bool:
    """Tell whether a task's name means a file of prompt pairs.

    >>> is_file("pairs.jsonl"), is_file("pairs.csv"), is_file("ioi")
    (True, True, False)
    """
    return task not in TASKS and (task.lower().endswith(ENDINGS) or os.path.isfile(task))


def draws_pairs(file: str) -> bool:
    """Tell whether a file's pairs are formed from what stands in it, so that a seed decides which.

    A file that cannot be read draws none.
    """
    from ..patching.prompts.shapes import read_shape

    try:
        return read_shape(file)[1].draws
    except EdgewiseError:
        return False


@typed
def check_task(task: str, options: Mapping[str, object] | None = None) -> None:
    """Refuse a task that does not exist, or options it does not have, before anything is loaded.

    Raises:
        UnknownName: with the nearest match and what is accepted.
        PromptError: the file cannot be read.
    """
    if not is_file(task):
        check_options(task, options or {})
        return
    if options:
        raise UnknownName(
            f"the prompt pairs of '{task}' come from a file, which has no options; options "
            f"such as {next(iter(options))} belong to built-in tasks."
        )
    try:
        if is_there(task) and not (os.path.isfile(task) or os.path.isdir(task)):
            raise OSError(errno.EINVAL, "it is a device or pipe, not a file")
        Path(task).open("rb").close()
    except OSError as error:
        raise PromptError(
            f"cannot read prompt pairs from '{task}': {error.strerror}; accepted: a file of "
            "prompt pairs, or the name of a built-in task."
        ) from None


def check_options(
    task: str, options: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Check a built-in task's options; return the task's own, and those of every task."""
    if task not in TASKS:
        raise unknown("task", task, [*TASKS, f"a file of prompt pairs ({', '.join(ENDINGS)})"])
    given = {key: value for key, value in options.items() if key not in CHOICES_OF_PAIRS}
    read = get_task(task).read_options(given)
    choice = {key: options[key] for key in CHOICES_OF_PAIRS if options.get(key) is not None}
    if "length" in choice:
        text = str(choice["length"])
        if not text.isdecimal() or int(text) < 1:
            raise PromptError(
                f"length is '{text}'; accepted: the number of tokens of the prompts to keep."
            )
        choice["length"] = int(text)
    if isinstance(choice.get("groups"), str):
        choice["groups"] = [group.strip() for group in str(choice["groups"]).split(",")]
    return {key: read[key] for key in given}, choice
