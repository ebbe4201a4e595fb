"""Messages speak to whoever is there: Python hears of arguments, the command line of options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgewise.cli import cli, guarded
from edgewise.graphs.errors import EdgewiseError, out_of_memory

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("edgewise", "graphs", "patching", "discovery", "visualize")
OF_COMMANDS = ("edgewise/commands/", "edgewise/cli.py")
OF_PIP = "graphs/load/builtin/packages.py"
SOURCES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.relative_to(ROOT).as_posix().startswith((*OF_COMMANDS, OF_PIP))
]


def options_named(source: str) -> Iterator[str]:
    """Yield the texts, but for docstrings, that name an option of a command line."""
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in docstrings and re.search(r"--[a-z]", text):
            yield text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_are_named_by_commands_alone(path: Path) -> None:
    assert list(options_named(path.read_text(encoding="utf-8"))) == []


def test_the_checker_sees_options() -> None:
    assert list(options_named('"""--doc"""\nx = f"give --model-{a}"')) == ["give --model-"]
    assert list(options_named('"a--b" == "c -- d"')) == ["a--b"]


@pytest.mark.parametrize(
    ("argument", "option"),
    [
        ("batch_size", "--batch-size"),
        ("task", "--task"),
        ("model", "--model"),
        ("models[1]", "--model-b"),
        ("allow_pickle", "--allow-pickle"),
        ("resume", "--resume"),
        ("start", "--from"),
        ("candidates", "--candidates"),
        ("write_scores", "`discover --scores`"),
        ("hidden_size", "`hidden_size`"),
        ("edgewise diff", "`edgewise diff`"),
        ("pairs", "`pairs`"),
    ],
)
def test_the_command_line_names_its_options(
    argument: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise EdgewiseError(f"give another `{argument}`.")

    assert guarded(fail) == 1
    assert capsys.readouterr().err == f"Error: give another {option}.\n"
    for command in cli.commands.values():  # and whoever asks for help next is told of -h
        assert "-h, --help" in command.get_help(click.Context(command, **cli.context_settings))


def test_out_of_memory_names_what_to_lower(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise MemoryError

    assert "`batch_size`, fewer `examples`" in str(out_of_memory(MemoryError()))
    assert guarded(fail) == 1
    assert "Try a smaller --batch-size, fewer --examples" in capsys.readouterr().err
