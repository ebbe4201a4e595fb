"""`edgewise lift`: what graph a model has, and the proof that its lift is exact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import options, show
from .flags import Flags, with_flags

if TYPE_CHECKING:
    from ..patching.compiled.certificate import EngineCertificate
    from ..session import Session


@click.command(short_help="Show a model's graph and prove that its lift is exact.")
@click.argument("model", required=False)
@click.option("--types", is_flag=True, help="List what becomes of each type of model instead.")
@options.graph_options
@options.compute_options
@options.json_option
@click.pass_context
@with_flags
def lift(ctx: click.Context, model: str | None, types: bool, flags: Flags, as_json: bool) -> None:
    """Show the size of MODEL's graph, its variants, and the certificate of its lift.

    MODEL is a Hugging Face name (with @revision), a local directory, a .gguf file, an adapter
    directory, smollm2-135m or gemma3-270m. The certificate compares the lifted model with the
    original on random tokens; exit status 1 if it fails. With --engine jax a second one compares
    the compiled engine with torch. With --types, and without MODEL: every type of decoder of the
    installed transformers, split into heads, with parts taken whole, or refused.
    """
    if types == (model is not None):
        raise click.UsageError("Name a MODEL, or ask for --types; one of the two is accepted.")
    if model is None:
        _print_types(as_json)
        return
    from ..experiment.spec import GraphSpec
    from ..graphs.files.circuit import graph_block
    from ..progress import reporting
    from ..session import open_model

    graph, compute = flags.over(GraphSpec()), flags.compute()
    with reporting() as progress:
        progress.say(f"loading and lifting {model}")
        session = open_model(model, graph, compute, require_certificate=False, progress=progress)
    proof, kinds = session.certificate, session.graph.count_by_kind()
    names = ("tolerance", "stream_tolerance", "passed")
    document = {
        "model": session.model_block,
        "variants": session.lifted.variants,
        "graph": {**graph_block(session.graph, {}), "edges_by_kind": kinds},
        "certificate": {**proof.as_dict(), **{name: getattr(proof, name) for name in names}},
    }
    second = _second(session)
    if second is not None:
        own = {key: getattr(second, key) for key in ("tolerance", "passed", *SECOND)}
        document["engines"] = {**own, "prompts": second.prompts, "longest": second.longest}
    if as_json:
        show.emit(document)
    else:
        _print(session)
        if second is not None:
            _print_second(second)
    if not proof.passed or (second is not None and not second.passed):
        ctx.exit(1)


SECOND = {
    "kept_all": "all edges kept: logits of engine torch",
    "kept_none": "no edge kept: logits of engine torch",
}
"""What a second certificate compares."""


def _second(session: Session) -> EngineCertificate | None:
    """Compare the compiled engine with torch, where it is asked for by name."""
    from ..patching.engines import JAX

    if session.engine != JAX:
        return None
    from ..patching.compiled.certificate import certify_engine

    return certify_engine(session.lifted)


def _print_second(second: EngineCertificate) -> None:
    errors = [(words, getattr(second, key)) for key, words in SECOND.items()]
    rows = [
        (words, f"{error:.2g}", f"{second.tolerance:.2g}", _verdict(error <= second.tolerance))
        for words, error in errors
    ]
    title = "second certificate: engine jax"
    show.table(("identity", "largest error", "accepted", ""), rows, title=title)
    show.line()
    show.line(f"second certificate: {_verdict(second.passed)}")


def _print_types(as_json: bool) -> None:
    import json
    from collections import Counter

    from ..graphs.lift.families._types import WORDS, decoder_types

    found = decoder_types()
    if as_json:
        keys = {"model_type": "model_type", "model_class": "class", "lift": "lift", "why": "why"}
        each = ({shown: getattr(one, key) for key, shown in keys.items()} for one in found)
        show.emit_text("[\n" + ",\n".join(f"  {json.dumps(row)}" for row in each) + "\n]\n")
        return
    counts = Counter(one.lift for one in found)
    show.line("; ".join(f"{counts[how]} {words.split(',')[0]}" for how, words in WORDS.items()))
    for how, words in WORDS.items():
        rows = [(one.model_type, one.why) for one in found if one.lift == how]
        show.table(("type", words), rows, left=(0, 1))


def _print(session: Session) -> None:
    loaded, lifted, graph = session.loaded, session.lifted, session.graph
    show.facts(
        ("model", loaded.title),
        ("revision", loaded.revision),
        ("family", lifted.family),
        ("shape", f"{graph.describe()}, width {lifted.d_model}"),
        ("computed in", f"{loaded.dtype} on {lifted.device}"),
        ("unpacked from", loaded.dequantised),
        *lifted.variants.items(),
    )
    by_kind = [(show.kind(name), count) for name, count in graph.count_by_kind().items()]
    counts = f"{len(graph.senders):,} senders, {len(graph.ports):,} ports"
    title = f"{counts}, {graph.edge_count:,} edges"
    show.table(("edges into", "number"), [*by_kind, ("all", graph.edge_count)], title=title)
    certificate = session.certificate
    tolerance, stream = certificate.tolerance, certificate.stream_tolerance
    checks = [
        ("all edges kept: logits of the model", certificate.kept_all, tolerance),
        ("no edge kept: logits of the corrupted prompt", certificate.kept_none, tolerance),
        ("each port: sum of its senders (relative)", certificate.stream, stream),
    ]
    if certificate.blocks is not None:
        checks.append(("each block alone, in parts of its rounding", certificate.blocks, 1.0))
    rows = [(name, f"{e:.2g}", f"{t:.2g}", _verdict(e <= t)) for name, e, t in checks]
    show.table(("identity", "largest error", "accepted", ""), rows, title="certificate")
    show.line()
    show.line(f"certificate: {_verdict(certificate.passed)}")
    if (rounding := certificate.rounding) is not None:
        show.line(
            f"The identities are checked in float32. In {loaded.dtype} the original's own logits "
            f"are up to {rounding.original:.2g} from those, by its rounding, and the lift's up to "
            f"{rounding.lift:.2g} from the original's."
        )
    if certificate.weights_error:
        show.line(f"{certificate.weights_error}.")


def _verdict(passed: bool) -> str:
    return "PASS" if passed else "FAIL"
