"""`edgewise compile`: a RASP program as a model whose circuit is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options, show
from .accepted import COUNT, FILE, WholeNumber, option

if TYPE_CHECKING:
    from ..known.programs import KnownProgram


@click.command("compile", short_help="Make a model, with its true circuit, of a RASP program.")
@click.argument("program", type=FILE, metavar="PROGRAM.py")
@option("-o --output FOLDER", "The folder to write, which is a model.", type=FILE, required=True)
@option("--examples N", "Prompt pairs to draw; default 128.", type=COUNT)
@option("--seed N", "Decides which pairs; default 0.", type=WholeNumber(0))
@options.json_option
def compile_(
    program: str, output: str, examples: int | None, seed: int | None, as_json: bool
) -> None:
    """Compile PROGRAM.py to a model with its true circuit, ready for every command.

    The file sets `program`, an SOp of Tracr's RASP, `vocabulary`, every value of a token, and
    `max_length`, the most tokens of an input; it is run as any Python file is. The folder gets the
    model, prompt pairs whose answers are what the program says, others that are held out, and for
    each ablation a list of the edges that have an effect alone: which these are depends on what
    ablated edges carry, and on the prompts.

    Takes the extra `tracr`: pip install "edgewise[tracr]".
    """
    from ..known.programs import EXAMPLES, known_program, read_program, write_program
    from ..progress import reporting

    options.claim_folder(output)
    with reporting() as progress:
        progress.say(f"compiling {program}")
        made = known_program(
            read_program(program), EXAMPLES if examples is None else examples, seed or 0
        )
        write_program(output, made)
    if as_json:
        true = {name: [str(edge) for edge in one.edges] for name, one in made.truth.items()}
        outputs = made.compiled.outputs
        document = {
            "program": made.program.name, "said": made.said, "true": true, "written": output,
            "tokens": list(made.compiled.tokens), "outputs": outputs and list(outputs),
        }  # fmt: skip
        show.emit(document)
        return
    _print(made, output)


def _print(made: KnownProgram, output: str) -> None:
    graph = next(iter(made.truth.values())).graph
    outputs = made.compiled.outputs
    show.facts(
        ("program", made.program.name),
        ("graph", f"{graph.describe()}, {graph.edge_count:,} edges"),
        ("tokens", ", ".join(map(str, made.compiled.tokens))),
        ("outputs", "a number" if outputs is None else ", ".join(map(str, outputs))),
        ("says the same", f"at {made.said:.1%} of the places of fresh inputs"),
    )
    show.line()
    rows = [(name, len(one)) for name, one in made.truth.items()]
    show.table(("ablation", "true edges"), rows, left=(0,))
    show.line()
    show.sentences(
        [
            f"Every command takes it: --model {output} --split-embedding "
            f"--task {output}/pairs.jsonl. Its files truth-ABLATION.txt list the true edges."
        ]
    )
    show.written(output)
