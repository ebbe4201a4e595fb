"""Rule 3: a registry speaks for itself.

Names of methods, metrics, ablations and tasks are quoted in their own file only (and in tests,
documents and examples). Help, defaults, messages and documents ask the registry, so that one more
of either is one file.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any

import pytest
from click.testing import CliRunner

import edgewise
from edgewise.discovery import registry as discovery
from edgewise.discovery.registry import Discovery, Option, methods, scoring_method
from edgewise.graphs.scores import Scores
from edgewise.patching.ablations import registry as ablation_registry
from edgewise.patching.ablations.registry import Carried, Reference, ablations, default_ablation
from edgewise.patching.gradients.rules import RULES, rule_of
from edgewise.patching.metrics import metric as metric_registry
from edgewise.patching.metrics.registry import default_metric, metrics
from edgewise.patching.run.runner import Runner
from edgewise.patching.tasks import TASKS
from tests.engine import tiny_lift, tiny_pairs

ROOT = Path(edgewise.__file__).parents[1]
FOLDERS = ("graphs", "patching", "discovery", "visualize", "edgewise")

HOMONYMS = {
    ("graphs/roles.py", "induction"): "a head's role",
    ("patching/heads/roles.py", "induction"): "a head's role",
    ("edgewise/commands/roles.py", "induction"): "a head's role",
    ("edgewise/steps/causal/rules.py", "induction"): "a head's role",
    ("patching/prompts/shapes/relation.py", "facts"): "a key of files",
    ("patching/prompts/shapes/facts.py", "facts"): "what can be added to a file",
    ("edgewise/commands/diff_show.py", "mean"): "a figure of repetitions",
    ("edgewise/cli.py", "optimal"): "a command",
    ("edgewise/commands/tokens.py", "exact"): "a column",
    ("visualize/charts/tokens.py", "exact"): "a column",
    ("patching/ablations/learned/vectors.py", "optimal"): "the command that wrote a file",
    ("patching/gradients/rules.py", "zero"): "what gradients into queries and keys can be",
}
"""Words that are a name in a registry and mean something else where they are quoted."""

ENGLISH = {
    "zero",
    "exact",
    "mean",
    "noise",
    "accuracy",
    "induction",
    "capitals",
    "facts",
    "successor",
    "refine",
    "gradient",
}
"""Names that are words of English too: these are looked for as whole texts only."""


def own_files() -> dict[str, str]:
    """Map every registered name to the file it is registered in."""
    functions: dict[str, Any] = {name: one.function for name, one in methods().items()}
    functions |= {name: one.function for name, one in metrics().items()}
    functions |= {name: one.prepare for name, one in ablations().items()}
    functions |= {name: one.spaces for name, one in TASKS.items()}
    functions |= dict.fromkeys(RULES, rule_of)
    return {
        name: str(Path(inspect.getfile(function)).resolve().relative_to(ROOT))
        for name, function in functions.items()
    }


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the literal texts of some source, without docstrings, and their lines."""
    tree = ast.parse(source)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def quoted(text: str, names: set[str]) -> list[str]:
    """List the names that a text quotes: as a whole, or, if they are no words, within."""
    found = [name for name in names if text == name]
    for name in names - ENGLISH:
        if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text) and name not in found:
            found.append(name)
    return found


def breaches(file: str, source: str, own: dict[str, str]) -> list[str]:
    """Describe the names that a file quotes though they are another's."""
    return [
        f"{file}:{line} quotes {name}, which {own[name]} registers"
        for line, text in texts(source)
        for name in sorted(quoted(text, set(own)))
        if own[name] != file and (file, name) not in HOMONYMS
    ]


def test_names_are_quoted_in_their_own_file_only() -> None:
    own = own_files()
    registries = (methods(), metrics(), ablations(), TASKS, RULES)
    assert len(own) == sum(map(len, registries))
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            found += breaches(file, path.read_text(encoding="utf-8"), own)
    assert not found, "ask the registry:\n" + "\n".join(found)


def template_texts(source: str) -> Iterator[str]:
    """Yield a template as a whole, and what is quoted in it, which may be a word of English too."""
    yield source
    yield from re.findall(r"""["']([^"'\n]*)["']""", source)


def test_templates_quote_no_names() -> None:
    names, found = set(own_files()), sorted((ROOT / "edgewise").rglob("*.j2"))
    assert found
    for path in found:
        for text in template_texts(path.read_text(encoding="utf-8")):
            assert quoted(text, names) == [], path
    for bad in ("{{ m }} of eap-ig", '{% if m == "zero" %}', "{% if m == 'mean' %}"):
        assert any(quoted(text, names) for text in template_texts(bad)), bad


def test_each_homonym_is_still_there() -> None:
    for file, name in HOMONYMS:
        quotes = [text for _, text in texts((ROOT / file).read_text(encoding="utf-8"))]
        assert name in quotes, f"{file} no longer quotes {name}"


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ('x = "kl"', True),
        ('ablation: str = "resample"', True),
        ('f"use {one} or eap-ig."', True),
        ('help="kl for acdc and refine"', True),
        ('x = "position-mean"', True),
        ('x = "zero"', True),
        ('print("zero or more")', False),
        ('"""Compare by `kl`."""', False),
        ('x = "kldiv"', False),
        ('x = "nll_total"', False),
    ],
)
def test_the_rule_sees_what_breaks_it(source: str, caught: bool) -> None:
    assert bool(breaches("edgewise/anything.py", source, own_files())) == caught


# -- one more of each is one file ---------------------------------------------------------------


@pytest.fixture
def one_more(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register one more method, ablation and metric, as their files would."""
    from edgewise.patching.metrics.registry import metric

    monkeypatch.setattr(discovery, "METHODS", dict(methods()))
    monkeypatch.setattr(ablation_registry, "_ABLATIONS", dict(ablations()))

    @discovery.method("by-chance", summary="score edges at random", selects=False)
    def by_chance(
        runner: Runner,
        *,
        luck: Annotated[int, Option("how lucky one is", 1, 9)] = 7,
        progress: object = None,
    ) -> Discovery:
        import numpy as np

        return Discovery(Scores(runner.graph, np.where(runner.graph.reads, float(luck), np.nan)))

    @ablation_registry.ablation("half", summary="half of what the sender writes")
    def half(reference: Reference) -> Carried:
        return lambda runs: runs.clean.values.map(lambda x: x / 2)

    @metric("top", larger_is_better=True)
    def top(logits: Any, target: Any) -> Any:
        """Largest logit."""
        return logits.amax(-1)

    yield
    del metric_registry.METRICS["top"]


@pytest.mark.usefixtures("one_more")
def test_help_and_documents_name_what_was_added() -> None:
    from edgewise.cli import cli

    path = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    help_of = {
        name: " ".join(CliRunner().invoke(cli, [name, "--help"]).output.split())
        for name in ("discover", "evaluate", "timeline", "patch")
    }
    for text in help_of.values():
        assert (
            "counterfactual-mean[:K], half, mean, noise, optimal[:FILE], position-mean, resample "
            "or zero"
        ) in text.replace("- ", "-")
        assert ", top, or an expression" in text
    assert "by-chance score edges at random" in help_of["discover"]
    assert "[by-chance] how lucky one is; default 7." in help_of["discover"].replace("- ", "-")
    assert "| `by-chance` | Score edges at random. | scores | `logit_diff` |" in generate.methods()
    assert "| `by-chance` | `luck` | `--luck` | `7` | How lucky one is. |" in (
        generate.method_options()
    )
    assert "| `half` | Half of what the sender writes. |" in generate.ablations()
    assert "`top`" in generate.metrics()


@pytest.mark.usefixtures("one_more")
def test_what_was_added_works() -> None:
    runner = Runner.create(tiny_lift("gpt2"), tiny_pairs(), metric="top", ablation="half")
    found = discovery.get_method("by-chance")(runner, luck=3)
    assert found.scores["m0->logits"] == 3
    exact = discovery.get_method("exact")(runner).scores
    assert exact["m0->logits"] != 0


FILES = {
    "edgewise.discovery": """
        from .registry import Discovery, method
        @method("added", summary="nothing", selects=False)
        def added(runner, *, progress=None) -> Discovery: ...
    """,
    "edgewise.patching.ablations": """
        from .registry import ablation
        @ablation("added", summary="nothing")
        def added(reference): ...
    """,
    "edgewise.patching.metrics": """
        from .registry import metric
        @metric("added", larger_is_better=True)
        def added(logits, target): ...
    """,
    "edgewise.patching.tasks": """
        from ._registry import task
        @task("added", summary="nothing")
        def added(vocabulary): ...
    """,
    "edgewise.graphs.lift.families": """
        from ..lifting import family
        @family("added", model_types=["added"], handled="")
        def describe(model): ...
    """,
    "edgewise.commands": """
        import click
        @click.command()
        def added() -> None: ...
    """,
}
"""A file of each kind."""


@pytest.mark.parametrize("package", FILES)
def test_a_file_is_found_by_being_there(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgewise.cli import IN_USE, found_commands
    from edgewise.graphs.lift import lifting
    from edgewise.patching.registries import registered

    known: dict[str, Callable[[], Any]] = {
        "edgewise.discovery": methods,
        "edgewise.patching.ablations": ablations,
        "edgewise.patching.metrics": metrics,
        "edgewise.patching.tasks": lambda: registered(TASKS, "edgewise.patching.tasks"),
        "edgewise.graphs.lift.families": lifting.families,
        "edgewise.commands": lambda: [one.name for one in found_commands()],
    }
    before = list(known[package]())
    (tmp_path / "added.py").write_text(dedent(FILES[package]))
    folder = importlib.import_module(package)
    kept = (discovery.METHODS, ablation_registry._ABLATIONS, metric_registry.METRICS, TASKS,
            lifting._FAMILIES)  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(folder, "__path__", [*folder.__path__, str(tmp_path)])
        try:
            assert set(known[package]()) - set(before) == {"added"}
        finally:
            for registry in kept:
                registry.pop("added", None)  # type: ignore[attr-defined]
            sys.modules.pop(f"{package}.added", None)
            vars(folder).pop("added", None)
    assert list(known[package]()) == before
    assert list(IN_USE) == [one.name for one in found_commands()]


def test_defaults_are_declared_once() -> None:
    assert [one.name for one in ablations().values() if one.default] == [default_ablation()]
    assert [one.name for one in methods().values() if one.scores_for_searches] == ["eap-ig"]
    assert scoring_method().suited(ablations()["resample"]) == {}
    assert scoring_method().suited(ablations()["mean"]) == {"midpoint": True}
    for kind in ("searches", "scores"):
        assert sum(one.default_for == kind for one in metrics().values()) == 1
    assert (default_metric(searching=True), default_metric(searching=False)) == ("kl", "logit_diff")
    assert sys.modules[methods()["acdc"].function.__module__].__name__.endswith(".acdc")
