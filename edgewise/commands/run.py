"""`edgewise run`: everything a declared experiment names."""

from __future__ import annotations

import os

import click

from . import options, show
from .accepted import FILE, option


@click.command(short_help="Do everything an experiment's declaration names.")
@click.argument("spec", type=FILE, metavar="SPEC.toml")
@option("-o --output DIR", "Where results go; default: SPEC without its ending.", type=FILE)
@options.licence_option
@options.json_option
def run(spec: str, output: str | None, as_json: bool) -> None:
    """Find, evaluate, compare and draw what SPEC declares, into a directory."""
    from ..progress import reporting
    from ..run import run_spec

    with reporting(on_prompts=show.understood) as progress:
        result = run_spec(spec, output or os.path.splitext(spec)[0], progress)
    if as_json:
        show.emit(result.as_dict())
        return
    show.facts(
        ("report", result.report),
        *((f"circuit of {name}", path) for name, path in result.circuits.items()),
        *((f"diff with {name}", path) for name, path in result.diffs.items()),
        ("images", f"{len(result.images)}" if result.images else None),
        ("steps", f"{len(result.made)} done, {len(result.kept)} finished before"),
    )
