"""The command line: `edgewise COMMAND …`.

Results go to standard output, progress and warnings to standard error. Exit status: 0 done, 1 the
request failed (one paragraph says why), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pkgutil import iter_modules
from traceback import format_exception
from typing import Any

import click

from . import __version__, commands
from .commands.flags import PREFIX
from .graphs.calls.text import visible_lines
from .graphs.errors import EdgewiseError, out_of_memory

DONE, FAILED, INTERRUPTED = 0, 1, 130

TRACEBACK = "EDGEWISE_TRACEBACK"
"""Set to 1, this environment variable shows where an error comes from."""


class Program(click.Group):
    """The group of commands, which turns every error into a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands in the order of their use."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C ends it with one line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                click.echo(err=True)  # after the ^C
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run a command line and exit."""
        run = partial(super().main, *args, standalone_mode=False, **extra)
        if not standalone_mode:
            return run()
        with _own_warnings():
            sys.exit(guarded(run))


def guarded(call: Callable[[], Any]) -> int:
    """Return the exit status of a call; errors go to standard error."""
    try:
        status = call()
        sys.stdout.flush()
        return status if isinstance(status, int) else DONE
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        text = _in_options(error.format_message())
        gap = "\n" if "\n" in text else " "  # the mark below an expression stands alone
        hint = f"{gap}See '{context.command_path} --help'." if context else ""
        click.echo(f"Error: {text}{hint}", err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output wanted no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get(TRACEBACK):
            click.echo(visible_lines("".join(format_exception(error))), err=True, nl=False)
        click.echo(f"Error: {_in_options(_message(error))}", err=True)
        return FAILED


def _message(error: Exception) -> str:
    error = out_of_memory(error) or error
    if isinstance(error, EdgewiseError):
        return str(error)
    if isinstance(error, OSError):
        where = f" '{error.filename}'" if error.filename else ""
        return f"cannot read or write{where}: {error.strerror or error}."
    return (
        f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:300]} This is a "
        f"mistake in edgewise; please report it with what {TRACEBACK}=1 shows."
    )


ELSEWHERE = {
    "models[0]": "--model-a",
    "models[1]": "--model-b",
    "write_scores": "`discover --scores`",
    "import_circuit": "`edgewise import`",
}
"""What stands, at the command line, for arguments that no option has the name of."""

LONGEST = 4000
"""Most characters of an error or warning; of a longer one the middle is left out."""


def _in_options(text: str) -> str:
    """Write arguments of Python, in backquotes, as options, and what a terminal would obey."""
    flags = dict(ELSEWHERE)
    for command in cli.commands.values() if "`" in text else ():
        for param in command.get_params(click.Context(command, **cli.context_settings)):
            if isinstance(param, click.Option):
                flags[str(param.name).removeprefix(PREFIX)] = max(param.opts, key=len)
    if len(text) > LONGEST:  # a file's own words, or a name, may be of any length
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    return visible_lines(re.sub(r"`([\w\[\]]+)`", lambda one: flags.get(one[1], one[0]), text))


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Print this project's warnings as one line each, and drop those of libraries."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"Warning: {_in_options(str(message))}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"edgewise\.")
        warnings.showwarning = show
        yield


IN_USE = (
    "lift", "tasks", "discover", "import", "patch", "hypotheses", "neurons", "tokens", "trace",
    "knockout", "evaluate", "matrix", "diff", "timeline", "methods", "benchmark", "compile",
    "optimal", "transplant", "roles", "draw", "export", "run",
)  # fmt: skip
"""The order in which commands are listed, which is that of their use; further ones come last."""


def found_commands() -> list[click.Command]:
    """Return the commands, each found by being there: the one that its file is named after."""
    found = []
    for _, name, _ in iter_modules(commands.__path__):
        one = getattr(import_module(f".{name}", commands.__name__), name, None)
        if isinstance(one, click.Command):
            found.append(one)
    places = {name: place for place, name in enumerate(IN_USE)}
    return sorted(found, key=lambda one: places.get(str(one.name), len(places)))


@click.group(
    cls=Program, commands=found_commands(), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="edgewise")
def cli() -> None:
    """Discover, evaluate, compare and draw circuits of transformers."""


def main() -> None:
    """Run the command line of this process."""
    cli.main(prog_name="edgewise")
