"""`edgewise evaluate`: how faithful and complete a circuit is, and what it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from ..graphs.levels.nodes import told
from . import options, show
from .accepted import COUNT, FILE, Number, option
from .claims import announce, check_penalty, claims_options, print_claims
from .flags import Flags, with_flags
from .given import in_model, read_all, require

if TYPE_CHECKING:
    from ..discovery.evaluation import Evaluation
    from ..discovery.measures.curve import Curve
    from ..discovery.random_circuits import Baseline
    from ..graphs.files import CircuitFile
    from ..graphs.files.exchange import Foreign
    from ..patching.prompts.pairs import Pair
    from ..patching.prompts.splits import PromptSplit
    from ..steps.evaluate import Evaluated

OTHER = {"task", "examples", "test", "seed", "bos", "metric", "ablation"}
"""What makes measures of other pairs, or by another metric, than a circuit's file has."""

LEAST = 10
"""How many of the least needed edges are printed."""


@click.command(short_help="Measure a circuit: faithfulness, completeness, edges by kind.")
@click.argument("circuit", type=FILE, metavar="CIRCUIT.json")
@option("--model MODEL", "Another model of the same shape; default: its own.")
@options.task_options(required=False, test=True)
@options.measure_options(searching=None)
@option("--curve", "Faithfulness by size, CPR and CMD; needs the scores.")
@option(
    "--minimality",
    "By how much the loss rises without each kept edge, and which edges do not help.",
)
@option(
    "--random K",
    "Faithfulness of K random circuits of as many edges of each kind, and the percentile.",
    type=COUNT,
)
@claims_options
@option(
    "--stable S",
    "Of the circuit only the edges that a share S of resampled prompts keeps, such as 0.9, by what "
    "its file, or the scores on each example beside it, tell.",
    type=Number(0, 1, min_open=True),
)
@option("-o --output NAME.json", "[--stable] Write that circuit, with these measures.", type=FILE)
@options.percent_option
@options.family_option
@options.compute_options
@options.json_option
@with_flags
def evaluate(
    circuit: str,
    model: str | None,
    flags: Flags,
    percent: float | None,
    output: str | None,
    as_json: bool,
) -> None:
    """Measure the circuit of a file.

    Model, prompt pairs, metric and ablation are those the circuit was found with, unless given. The
    circuit may be a file of EAP-IG, ACDC or Edge-Pruning, or a folder of MIB's, which name neither:
    give --model and --task. A file that keeps no edge but has scores is measured with --curve.
    """
    from ..experiment.spec import EvaluationSpec
    from ..graphs.files import CircuitFile, read_scores_of, write_circuit
    from ..progress import reporting
    from ..steps.evaluate import evaluate as measure
    from ..steps.found.blocks import task_block, with_measures
    from ..steps.stored import open_for, stored_model, weights_notes

    flags.task()  # wrong ones are refused before anything is loaded
    check_penalty(flags)
    (given,), scores = read_all(percent, circuit), None
    if not isinstance(given, CircuitFile):
        require(given, model=model, task=flags["task"])
    elif flags["curve"]:
        scores = read_scores_of(given).scores
    given = _cut(given, flags, output, model)
    compute = flags.compute(given if isinstance(given, CircuitFile) else None)
    with reporting() as progress:
        if isinstance(given, CircuitFile):
            file = given
            progress.say(f"loading and lifting {model or stored_model(file)}")
            session = open_for(
                file, model, compute, try_family=flags["try_family"], progress=progress
            )
            notes = weights_notes(file, session, same_model=model is None)
        else:
            progress.say(f"loading and lifting {model}")
            how = {"curve": bool(flags["curve"]), **flags.only("metric", "ablation", "try_family")}
            made = in_model(given, model, compute, progress, **how)
            file, session, notes = made.file, made.session, []
            scores = made.scores.scores if made.scores is not None and flags["curve"] else None
        pairs, differences = flags.split(file, session)
        notes += differences
        spec = flags.over(EvaluationSpec())
        announce(len(file.circuit), spec)
        progress.say("measuring")
        found = measure(
            session, file, pairs, spec, scores=scores, progress=progress,
            metric=flags["metric"], batch_size=compute.batch_size,
        )  # fmt: skip
    if output is not None:
        measured = with_measures(file, found.evaluation, found.held_out, engine=found.engine)
        write_circuit(output, measured)
    show.note(*notes)
    ablation = flags["ablation"] or file.discovery["ablation"]
    if as_json:
        heads = {"circuit": circuit, "model": session.model_block, "task": task_block(pairs)}
        show.emit({**heads, "ablation": ablation, **found.as_dict(), "notes": notes})
        return
    about = (
        ("model", session.loaded.title),
        ("task", shown_task(task_block(pairs))),
        ("measured", f"{found.metric}, {ablation} ablation"),
        ("keeps", told(file.discovery.get("level"), file.circuit)),
        ("stability", steadiness(file)),
    )
    _print(about, found, pairs, session.loaded.tokenizer)
    show.written(output)


def _cut(
    given: CircuitFile | Foreign, flags: Flags, output: str | None, model: str | None
) -> CircuitFile | Foreign:
    """Return the stable part of a circuit, if that is asked for, and keep its output's place."""
    from ..graphs.files import CircuitFile
    from ..steps.found.stable import stable_part

    if flags["stable"] is None:
        if output is not None:
            raise click.UsageError("--output is for --stable; give that too.")
        return given
    if not isinstance(given, CircuitFile):
        raise click.UsageError(
            "--stable is for circuits that were found here; another tool's file does not tell how "
            "stable its edges are."
        )
    if output is not None:
        if model is not None or flags.keys() & OTHER:
            raise click.UsageError(
                "--output writes a circuit with measures on its own pairs, in its own model and by "
                "its own metric and ablation; leave it out, or do not give others."
            )
        options.claim(output)
    return stable_part(given, flags["stable"])


def _print(
    about: Iterable[tuple[str, object]], found: Evaluated, pairs: PromptSplit, tokenizer: Any
) -> None:
    evaluation = found.evaluation
    show.facts(
        *about,
        *outcome(evaluation, found.held_out),
        ("seen", seen_words(found)),
        ("gap", found.gap),
        *_beside_random(found.random),
    )
    show.edges_by_kind(evaluation.edges_by_kind, evaluation.edges_total_by_kind)
    nodes = [(show.kind(name), count) for name, count in evaluation.nodes_by_kind.items()]
    show.table(("nodes", "number"), [*nodes, ("all", evaluation.nodes)])
    _spread(found, pairs, tokenizer)
    _print_more(found)


def _print_more(found: Evaluated) -> None:
    """Print what else was asked for than measures of the circuit."""
    if found.curve is not None:
        _print_curve(found.curve)
    if found.minimality is not None:
        rises = found.rises
        least = [(str(edge), rise) for edge, rise in rises[:LEAST]]
        show.table(("least needed edges", "rise of the loss without it"), least, title="minimality")
        show.facts(("do not help", f"{found.useless:,} of {len(rises):,} edges"))
    print_claims(found)


def steadiness(file: CircuitFile) -> str | None:
    """Say how stable a circuit is under resampled prompts, if its file does."""
    from ..graphs.files.stability import stability_of

    found = stability_of(file)
    return None if found is None else found.words()


def _print_curve(curve: Curve) -> None:
    columns = (f"{curve.level}s", "f, by signed score", "95%", "f, by |score|", "95%")
    rows = []
    for place, size in enumerate(curve.sizes):
        row: list[object] = [size]
        for name in ("faithfulness", "faithfulness_absolute"):
            value = "undefined" if curve.undefined else getattr(curve, name)[place]
            row += [value, show.ends(curve.interval(name, place))]
        rows.append(row)
    show.table(columns, rows, title="faithfulness by size")
    for name, value in (("cpr", curve.cpr), ("cmd", curve.cmd)):
        said = "undefined" if curve.undefined else show.number_text(value)
        show.facts((name.upper(), f"{said} {show.ends(curve.interval(name))}".rstrip()))


def outcome(
    evaluation: Evaluation, held_out: Evaluation | None = None
) -> Iterator[tuple[str, object]]:
    """Yield what was measured, as lines of name and value: held out first, in sample beside it."""
    first = evaluation if held_out is None else held_out
    words = ("full model", "circuit", "without it", "no edge")
    for word, name in zip(words, ("full", "circuit", "complement", "empty"), strict=True):
        said = f"{first.metric} {_value(first, name)}"
        yield word, said if held_out is None else f"{said}; in sample {_value(evaluation, name)}"
    for name in ("faithfulness", "completeness"):
        said = _ratio(first, name)
        if first.undefined is not None and name == "faithfulness":
            said = first.undefined
        if held_out is not None and not (first.undefined and evaluation.undefined):
            said += f"; in sample {_ratio(evaluation, name)}"
        yield name, said


def _value(evaluation: Evaluation, name: str) -> str:
    found = evaluation.estimate(name)
    low_high = "" if found.interval is None else f" [{found.low:.3g}, {found.high:.3g}]"
    return f"{found.value:.4g}{low_high}"


def _ratio(evaluation: Evaluation, name: str) -> str:
    return "undefined" if evaluation.undefined else show.estimate(evaluation.estimate(name))


def not_held_out(pairs: PromptSplit) -> str:
    """Say that nothing is held out, and why."""
    return f"in sample only: {pairs.words or 'nothing is held out'}"


def why_not_held_out(task: Mapping[str, object]) -> str:
    """Say the same of a file's task."""
    return f"in sample only: {task.get('nothing_held_out') or 'nothing is held out'}"


def seen_words(found: Evaluated) -> str | None:
    """Say whether a circuit was found on the pairs that it is measured on."""
    count, total = found.seen, found.examples
    if found.held_out is not None:
        return None
    if count is None:
        return "not known: the circuit's file does not say on which pairs it was found"
    if count == 0:
        return f"it was found on none of these {total:,} pairs: they are held out"
    which = (
        "these pairs: in sample only" if count == total else f"{count:,} of these {total:,} pairs"
    )
    return f"it was found on {which}"


def _spread(found: Evaluated, pairs: PromptSplit, tokenizer: Any) -> None:
    """Print how the metric varies over the pairs that count, and the worst of them."""
    from ..discovery.evaluation import LEVELS

    first = found.evaluation if found.held_out is None else found.held_out
    measured_on = pairs.discovery if pairs.test is None else pairs.test
    if first.spread is None:
        return
    heads = (f"{first.metric} of pairs", *(f"{level:.0%}" for level in LEVELS))
    names = {"full": "full model", "circuit": "circuit", "empty": "no edge"}
    rows = [(word, *first.spread.quantiles[name]) for name, word in names.items()]
    show.table(heads, rows, title="quantiles over pairs")
    worst = [
        (
            one.pair,
            one.full,
            one.circuit,
            one.empty,
            _text(measured_on.pairs[one.pair - 1], tokenizer),
        )
        for one in first.spread.worst
    ]
    show.table(("pair", *names.values(), "prompt"), worst, title="worst pairs", left=(4,))


def _text(pair: Pair, tokenizer: Any) -> str:
    """Return a clean prompt as text; as ids where there is no tokenizer."""
    if tokenizer is None:
        return " ".join(map(str, pair.clean))
    return str(tokenizer.decode(list(pair.clean)))


def _beside_random(found: Baseline | None) -> Iterator[tuple[str, object]]:
    if found is None:
        return
    values = found.faithfulness
    ends = f"{min(values):.3f} to {max(values):.3f}, median {show.estimate(found.median)}"
    ends = "undefined" if found.undefined else ends
    yield f"{len(values):,} random ones", f"faithfulness {ends}"
    interval = "[{:.0f}, {:.0f}]".format(*found.interval)
    words = "the share of random circuits less faithful"
    yield "percentile", f"{found.percentile:.0f}: {words}, of all such ones {interval}"


def shown_task(task: Mapping[str, object]) -> str:
    """Name a task with its number of pairs."""
    seed = "" if task["seed"] is None else f", seed {task['seed']}"
    test = task.get("test")
    held = f"; {test['words'] or 'held out: others'}" if isinstance(test, Mapping) else ""
    return f"{task['name']}, {task['examples']:,} pairs{seed}{held}"
