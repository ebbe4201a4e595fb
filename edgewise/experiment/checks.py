"""Check a spec: every key of every table, and whether what they say fits together.

Closed choices, options and metrics are asked of their registries; local models and files must be
there. All problems are noted before the spec is refused. No model is loaded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..graphs.errors import EdgewiseError, SpecError, unknown
from ..session import CHOICES_OF_PAIRS, EXAMPLES, check_task
from .spec import (
    ComparisonSpec,
    ComputeSpec,
    DiscoverySpec,
    DrawingSpec,
    EvaluationSpec,
    GraphSpec,
    ModelSpec,
    Spec,
    TaskSpec,
)
from .toml import Problems, Table

if TYPE_CHECKING:
    from ..patching.metrics.metric import Metric

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")


def check_spec(
    document: Mapping[str, Any], *, folder: Path, source: str = "the spec", name: str = "experiment"
) -> Spec:
    """Turn a parsed TOML document into a spec.

    Raises:
        SpecError: lists all problems, each with its key, what was found and what is accepted.
    """
    problems = Problems(source)
    top = Table(problems, "", document)
    if "models" not in document:
        problems.add("[[models]] is missing; name at least one model by its source.")
    if document.get("models") == []:
        problems.add("models is []; accepted: one or more, each headed [[models]].")
    experiment = top.table("experiment")
    models = _models(top.tables("models"), folder)
    task = _task(top.table("task"), folder)
    graph = top.table("graph")
    discovery = _discovery(top.table("discovery"))
    evaluation = _evaluation(top.table("evaluation"), discovery)
    spec = Spec(
        name=experiment.text("name", name),
        description=experiment.text("description", ""),
        models=models,
        task=task,
        graph=GraphSpec(graph.flag("grouped_kv", False), graph.flag("split_embedding", False)),
        discovery=discovery,
        evaluation=evaluation,
        comparison=_comparison(top.table("comparison"), discovery),
        drawing=_drawing(top.table("drawing")),
        compute=_compute(top.table("compute")),
    )
    for table in (experiment, graph, top):
        table.finish()
    problems.require_none()
    return spec


# -- the tables ---------------------------------------------------------------------------------


def _models(tables: Sequence[Table], folder: Path) -> tuple[ModelSpec, ...]:
    models: list[ModelSpec] = []
    for table in tables:
        source = table.text("source", "")
        if not source and "source" not in table:
            table.problems.add(f"{table.where('source')} is missing; give the model to load.")
        source = table.problems.attempt(table.where("source"), source, _source, source, folder)
        name = table.text("name", _default_name(source))
        table.finish()
        problem = _name_problem(name, [model.name for model in models]) if source else None
        if problem:
            table.problems.add(f"{table.where('name')} is '{name}', {problem}")
        models.append(ModelSpec(name, source))
    return tuple(models)


def _source(source: str, folder: Path) -> str:
    """Return a reference that means the same from the working directory.

    Raises:
        EdgewiseError: a path with nothing, or with no model, there.
    """
    from ..graphs.load.adapters import base_reference
    from ..graphs.load.builtin import ALIAS
    from ..graphs.load.references import Form, find

    if not source or source == ALIAS:
        return source
    path = folder / Path(source).expanduser()
    if path.exists():
        if (found := find(str(path))).form is Form.ADAPTER:
            base_reference(found.path)
        return str(path)
    if source.startswith(("/", "./", "../", "~", ".\\", "..\\")) or source.endswith(".gguf"):
        raise SpecError(f"'{path}' does not exist; paths start from the spec's folder.")
    if Path(source).exists():
        raise SpecError(
            f"'{source}' exists in the working directory but not beside the spec, from "
            f"where paths start; write the path from '{folder}', or the whole path."
        )
    return source


def _default_name(source: str) -> str:
    last = Path(source.partition("@")[0].rstrip("/\\")).name.removesuffix(".gguf")
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", last).lstrip("._+-") or "model"


def _name_problem(name: str, before: Sequence[str]) -> str | None:
    if name.lower() in (other.lower() for other in before):
        return "like a model before it; give each model a name of its own."
    if not _FILE_NAME.fullmatch(name) or "_vs_" in name:
        return (
            "which cannot name files; accepted: letters, digits, '.', '_', '+' and '-', beginning "
            "with a letter or digit, without '_vs_'."
        )
    return None


def _task(table: Table, folder: Path) -> TaskSpec:
    from ..patching.tasks import TASKS

    name = table.text("name", None, choices=TASKS)
    file = table.text("file", None)
    examples = table.whole("examples", None if file else EXAMPLES, minimum=1)
    bos = table.flag("bos", None)
    if file is not None:
        if "name" in table:
            table.problems.add("task.name and task.file are both given; accepted: one of them.")
        path = folder / Path(file).expanduser()
        if not path.is_file():
            table.problems.add(f"task.file: '{path}' does not exist; expected a .jsonl file.")
        table.finish(_only_built_in)
        return TaskSpec(Path(file).stem, str(path), examples, None, bos)
    if "name" not in table:
        table.problems.add("task.name is missing; give a built-in task's, or a file of pairs.")
    seed = table.whole("seed", 0, minimum=0)
    task = TASKS.get(name or "")
    if task is None:
        _finish_unsure(table, [o.name for t in TASKS.values() for o in t.options])
        return TaskSpec(name or "", None, examples, seed, bos)
    options: dict[str, Any] = {}
    for key in (*(option.name for option in task.options), *CHOICES_OF_PAIRS):
        value = table.take(key)
        if value is not None:
            options[key] = value
            table.problems.attempt("task", None, check_task, task.name, {key: value})
    table.finish()
    return TaskSpec(task.name, None, examples, seed, bos, options)


def _finish_unsure(table: Table, options: Sequence[str]) -> None:
    """Note keys that no task (or method) has, where it is not known which one is meant."""
    for key in (*options, *CHOICES_OF_PAIRS):
        table.take(key)
    table.finish()


def _only_built_in(key: str) -> str | None:
    if key != "seed":
        return None
    return "task.seed belongs to built-in tasks; a file's pairs are fixed, leave it out."


def _discovery(table: Table) -> DiscoverySpec:
    from ..discovery.registry import methods
    from ..patching.ablations import ABLATIONS

    known = methods()
    name = table.text("method", None, choices=known)
    if "method" not in table:
        table.problems.add(f"discovery.method is missing; accepted: {', '.join(known)}.")
    method = known.get(name or "")
    metric = _metric(table, "metric", table.text("metric", _default_metric(name)))
    ablation = table.text("ablation", "resample", choices=ABLATIONS)
    top = table.whole("top", None, minimum=1)
    above = _positive(table, "above", "a number above 0")
    faithfulness = _positive(table, "faithfulness", "a number above 0, up to 1, such as 0.9")
    signed = table.flag("signed", False)
    options: dict[str, Any] = {}
    if method is None:
        _finish_unsure(table, [key for other in known.values() for key in other.options])
    else:
        _check_selection(table, method.name, method.selects, signed)
        known_metric = _known_metric(metric)
        if known_metric is not None:
            table.problems.attempt("discovery.metric", None, method.check_metric, known_metric)
        for key, option in method.options.items():
            given = {} if (value := table.take(key)) is None else {key: value}
            read = table.problems.attempt("discovery", {}, method.check, given)
            options[key] = read.get(key, option.default)
        table.finish(lambda key: _of_another_method(key, method.name))
    return DiscoverySpec(name or "", metric, ablation, options, top, above, faithfulness, signed)


def _default_metric(method: str | None) -> str:
    from ..discovery.registry import methods
    from .asking import default_metric

    known = methods().get(method or "")
    return default_metric(known) if known is not None else "logit_diff"


def _positive(table: Table, key: str, accepted: str) -> float | None:
    value = table.number(key, None, accepted)
    if value is not None and not 0 < value <= (
        1.0 if key == "faithfulness" else sys.float_info.max
    ):
        table.problems.add(f"{table.where(key)} is {value:g}; accepted: {accepted}.")
    return value


def _check_selection(table: Table, method: str, selects: bool, signed: bool) -> None:
    given = [key for key in ("top", "above", "faithfulness") if key in table]
    if selects and (given or signed):
        given = given or ["signed"]
        table.problems.add(
            f"discovery.{given[0]} chooses edges by their scores, but method '{method}' decides "
            "itself which edges to keep; leave it out."
        )
    elif not selects and len(given) != 1:
        found = (
            f"{' and '.join(given)} are both given" if given else "nothing says how many to keep"
        )
        table.problems.add(
            f"discovery: method '{method}' gives every edge a score, and {found}; accepted: one "
            "of top (a number of edges), above (a smallest score), faithfulness (such as 0.9)."
        )


def _of_another_method(key: str, method: str) -> str | None:
    from ..discovery.registry import methods

    owners = [name for name, other in methods().items() if key in other.options]
    if not owners:
        return None
    return (
        f"discovery.{key} is an option of method {' and '.join(owners)}, not of '{method}'; "
        "leave it out, or change the method."
    )


def _metric(table: Table, key: str, text: str) -> str:
    from ..patching.metrics.registry import get_metric

    metric = table.problems.attempt(table.where(key), None, get_metric, text)
    return text if metric is None else metric.name


def _known_metric(text: str) -> Metric | None:
    """Return a metric unless it is wrong, which has been noted."""
    from ..patching.metrics.registry import get_metric

    try:
        return get_metric(text)
    except EdgewiseError:
        return None


def _evaluation(table: Table, discovery: DiscoverySpec) -> EvaluationSpec:
    from ..discovery.registry import methods

    default = tuple(dict.fromkeys([discovery.metric, "kl"]))
    metrics = table.texts("metrics", default, "metrics")
    if "metrics" in table:
        metrics = tuple(_metric(table, "metrics", text) for text in metrics)
    spec = EvaluationSpec(metrics, table.flag("curve", False))
    method = methods().get(discovery.method)
    if spec.curve and method is not None and method.selects:
        table.problems.add(
            f"evaluation.curve is true, but method '{method.name}' does not score every edge; "
            "leave it out, or choose a method that does, such as eap-ig."
        )
    table.finish()
    return spec


def _comparison(table: Table, discovery: DiscoverySpec) -> ComparisonSpec:
    from ..discovery.registry import methods
    from ..steps.repeat import LEAST_REPETITIONS, Recipe
    from .asking import Selection

    default = ComparisonSpec()
    level = table.number("level", default.level, "a number between 0 and 1")
    if not 0 < level < 1:
        table.problems.add(f"{table.where('level')} is {level:g}; accepted: between 0 and 1.")
    spec = ComparisonSpec(
        table.whole("noise_floor", None, minimum=LEAST_REPETITIONS),
        level,
        table.flag("cross", default.cross),
        table.flag("roles", default.roles),
    )
    metric = _known_metric(discovery.metric)
    if spec.noise_floor is not None and metric is not None and discovery.method in methods():
        method, ablation = discovery.method, discovery.ablation
        recipe = Recipe(method, discovery.options, discovery.metric, ablation, Selection())
        where = table.where("noise_floor")
        table.problems.attempt(where, None, recipe.check_metric, metric)
    table.finish()
    return spec


def _drawing(table: Table) -> DrawingSpec:
    from ..visualize import accepted_suffixes
    from ..visualize.compose import MOST_EDGES

    accepted = [suffix.removeprefix(".") for suffix in accepted_suffixes()]
    default = DrawingSpec()
    formats = table.take("formats")
    if formats != []:
        formats = table.texts("formats", default.formats, f"formats ({', '.join(accepted)})")
    for found in formats:
        if found not in accepted:
            table.problems.add(unknown(table.where("formats"), found, accepted))
    if {"png", "pdf"} & set(formats):
        _require_matplotlib(table)
    spec = DrawingSpec(
        tuple(formats),
        table.whole("top", default.top, minimum=1, maximum=MOST_EDGES),
        table.text("layout", default.layout, choices=("auto", "dot", "built-in")),
        table.flag("heat_map", default.heat_map),
        table.flag("overlap", default.overlap),
    )
    table.finish()
    return spec


def _require_matplotlib(table: Table) -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        table.problems.add(
            "drawing.formats: png and pdf need matplotlib, which is not installed; install it "
            'with pip install "edgewise[draw]", or draw svg, html or dot.'
        )


def _compute(table: Table) -> ComputeSpec:
    from ..graphs.load.loading import DTYPES

    spec = ComputeSpec(
        table.text("device", "auto"),
        table.text("dtype", "float32", choices=DTYPES),
        table.whole("batch_size", None, minimum=1),
    )
    table.finish()
    return spec
