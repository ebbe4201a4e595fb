"""The import rules, read from the sources with `ast` and, for the lazy ones, observed.

graphs <- patching <- discovery <- edgewise, and graphs <- visualize <- edgewise: nothing points
back. Heavy packages load only where they are used.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest

from edgewise.cli import cli

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("graphs", "patching", "discovery", "visualize")
MAY_IMPORT: dict[str, set[str]] = {
    "graphs": {"graphs"},
    "patching": {"graphs", "patching"},
    "discovery": {"graphs", "patching", "discovery"},
    "visualize": {"graphs", "visualize"},
    "edgewise": {"graphs", "patching", "discovery", "visualize", "edgewise"},
}
# Modules that compute with tensors, and may load torch when they are imported. All others are
# light: importing them, with everything they import in turn, loads none of HEAVY.
TENSOR_MODULES = (
    "edgewise.graphs.lift*",
    "edgewise.patching.*",
    "edgewise.known.interchange.*",
    "edgewise.steps.facts.*",
)
LIGHT_ALL_THE_SAME = (
    "edgewise.graphs.lift.config_reads",
    "edgewise.graphs.lift.devices",
    "edgewise.patching.tasks*",
    "edgewise.patching.ablations",
    "edgewise.patching.facts.names",
    "edgewise.patching.metrics.registry",
    "edgewise.patching.prompts.pairs",
    "edgewise.steps.facts.tokens",
)
HEAVY = {"torch", "transformers", "sympy"}
OPTIONAL = {"gguf", "jax", "matplotlib", "peft"}
ENGINE = "edgewise.patching.compiled.*"  # whose modules JAX users alone load
MODEL_PACKAGES = {"torch", "transformers", "peft"}
COMMANDS = tuple(cli.commands)


@dataclass(frozen=True)
class Import:
    """One imported name: where to, on which line, and when it happens."""

    target: str
    line: int
    relative: bool
    when: str  # "load", "call" (inside a function) or "typing"


@dataclass(frozen=True)
class Module:
    """A module's dotted name, its syntax tree and its imports."""

    name: str
    tree: ast.Module
    imports: tuple[Import, ...]

    @classmethod
    def read(cls, name: str, source: str, is_package: bool = False) -> Module:
        tree = ast.parse(source)
        package = name if is_package else name.rpartition(".")[0]
        return cls(name, tree, tuple(_imports(tree, package, "load")))

    @property
    def layer(self) -> str:
        return _layer(self.name)

    @property
    def allowed(self) -> set[str]:
        return MAY_IMPORT[self.layer]


def _imports(node: ast.AST, package: str, when: str) -> Iterator[Import]:
    """Walk a tree and yield its imports, relative ones resolved against the package."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, False, when)
        elif isinstance(child, ast.ImportFrom):
            base = _resolve(child.level, child.module or "", package)
            for alias in child.names:
                yield Import(f"{base}.{alias.name}", child.lineno, child.level > 0, when)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _imports(ast.Module(child.body, []), package, "typing")
            yield from _imports(ast.Module(child.orelse, []), package, when)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _imports(child, package, "call" if when == "load" else when)
        else:
            yield from _called_import(child, package, when)
            yield from _imports(child, package, when)


def _called_import(node: ast.AST, package: str, when: str) -> Iterator[Import]:
    """Yield the import that a call such as `import_module(".eap", __package__)` makes."""
    if not isinstance(node, ast.Call):
        return
    given = [*node.args[:1], *(one.value for one in node.keywords if one.arg == "name")]
    name = given[0].value if given and isinstance(given[0], ast.Constant) else None
    if _called(node) in ("import_module", "__import__") and isinstance(name, str):
        level = len(name) - len(name.lstrip("."))
        yield Import(_resolve(level, name[level:], package), node.lineno, level > 0, when)


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def _resolve(level: int, name: str, package: str) -> str:
    parts = package.split(".")
    base = parts[: len(parts) - level + 1] if level else []
    return ".".join([*base, *([name] if name else [])])


def _layer(dotted: str) -> str:
    part = dotted.partition(".")[2].partition(".")[0]
    return part if part in FOLDERS else "edgewise"


def _light(name: str) -> bool:
    in_list = [fnmatch(name, pattern) for pattern in TENSOR_MODULES]
    return not any(in_list) or any(fnmatch(name, pattern) for pattern in LIGHT_ALL_THE_SAME)


def complaints(module: Module) -> list[str]:
    """Everything the module does against the rules, one line each."""
    found = []
    for item in module.imports:
        top, where = item.target.split(".")[0], f"line {item.line}: {item.target}"
        if top in FOLDERS:
            found.append(f"{where}: `{top}` is no package of its own; it is edgewise.{top}")
        if top == "edgewise" and not item.relative:
            found.append(f"{where}: siblings are imported relatively")
        allowed = item.target == "edgewise.__version__" or _layer(item.target) in module.allowed
        if (
            fnmatch(item.target, ENGINE)
            and item.when == "load"
            and not fnmatch(module.name, ENGINE)
        ):
            found.append(f"{where}: the compiled engine is imported where it is asked for")
        if top == "edgewise" and not allowed:
            found.append(f"{where}: {module.layer} must not import {_layer(item.target)}")
        if top in ("pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"):
            found.append(f"{where}: no pickle")
        of_engine = top == "jax" and fnmatch(module.name, ENGINE)
        if top in OPTIONAL and item.when == "load" and not of_engine:
            found.append(f"{where}: optional packages are imported where they are used")
        if module.layer == "visualize" and top in MODEL_PACKAGES:
            found.append(f"{where}: visualize never sees a model")
    return found + [f"line {line}: {what}" for line, what in _unsafe_calls(module.tree)]


def _unsafe_calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                yield node.lineno, f"no {node.func.id}"
            safe = any(
                k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords
            )
            if ast.unparse(node.func) == "torch.load" and not safe:
                yield node.lineno, "torch.load without weights_only=True is pickle"


def heavy_chain(name: str, modules: Mapping[str, Module]) -> str | None:
    """The first way in which importing the named module loads a heavy package, or None."""
    queue, seen = [(name,)], {name}
    while queue:
        chain = queue.pop(0)
        if chain[-1] not in modules:
            continue
        for item in modules[chain[-1]].imports:
            if item.when != "load":
                continue
            if item.target.split(".")[0] in HEAVY:
                return " -> ".join((*chain, item.target.split(".")[0]))
            parts = item.target.split(".")
            for loaded in (".".join(parts[: i + 1]) for i in range(len(parts))):
                if loaded in modules and loaded not in seen:
                    seen.add(loaded)
                    queue.append((*chain, loaded))
    return None


def _sources() -> Iterator[tuple[str, Path]]:
    for folder, package in {
        "edgewise": "edgewise",
        **{f: f"edgewise.{f}" for f in FOLDERS},
    }.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            yield ".".join((package, *(p for p in parts if p != "__init__"))), path


MODULES = {
    name: Module.read(name, path.read_text(encoding="utf-8"), path.name == "__init__.py")
    for name, path in _sources()
}


def test_every_package_is_read() -> None:
    assert {"edgewise", *(f"edgewise.{f}" for f in FOLDERS)} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_follow_the_architecture(name: str) -> None:
    assert complaints(MODULES[name]) == []


@pytest.mark.parametrize("name", [name for name in MODULES if _light(name)])
def test_light_modules_load_nothing_heavy(name: str) -> None:
    assert heavy_chain(name, MODULES) is None


@pytest.mark.parametrize(
    "path",
    [p for f in ("tests", "examples", "benchmarks") for p in sorted((ROOT / f).rglob("*.py"))],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_tests_and_examples_import_edgewise(path: Path) -> None:
    module = Module.read("outside", path.read_text(encoding="utf-8"))
    tops = {item.target.split(".")[0] for item in module.imports if not item.relative}
    assert tops.isdisjoint(FOLDERS), f"write `import edgewise.…`, not {tops & set(FOLDERS)}"


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        (
            "edgewise.graphs.a",
            "from ..patching.prompts import Pair",
            "graphs must not import patching",
        ),
        (
            "edgewise.graphs.lift.families.a",
            "from ....discovery import acdc",
            "must not import discovery",
        ),
        (
            "edgewise.graphs.a",
            "def f():\n    from .. import visualize",
            "must not import visualize",
        ),
        ("edgewise.graphs.a", "from ..spec import Spec", "graphs must not import edgewise"),
        ("edgewise.patching.a", "from ..discovery.acdc import run", "must not import discovery"),
        ("edgewise.discovery.a", "from ..visualize import dot", "must not import visualize"),
        ("edgewise.discovery.a", "from .. import cli", "discovery must not import edgewise"),
        ("edgewise.visualize.a", "from ..patching import runner", "must not import patching"),
        ("edgewise.visualize.a", "def f():\n    import torch", "never sees a model"),
        ("edgewise.cli", "import graphs.names", "no package of its own"),
        ("edgewise.cli", "from graphs.names import Edge", "no package of its own"),
        ("edgewise.cli", "from edgewise.graphs.names import Edge", "relatively"),
        ("edgewise.graphs.a", "if TYPE_CHECKING:\n    from ..patching import runner", "patching"),
        ("edgewise.graphs.a", "import_module('..patching.runner', __package__)", "patching"),
        (
            "edgewise.graphs.a",
            "import_module(name='..patching.b', package=__package__)",
            "patching",
        ),
        ("edgewise.graphs.a", "importlib.import_module('edgewise.graphs.b')", "relatively"),
        ("edgewise.graphs.a", "def f():\n    import pickle", "no pickle"),
        ("edgewise.graphs.a", "torch.load(path)", "weights_only"),
        ("edgewise.patching.a", "value = eval(text)", "no eval"),
        ("edgewise.visualize.a", "import matplotlib.pyplot as plt", "optional"),
        ("edgewise.patching.a", "import jax", "optional"),
        ("edgewise.discovery.a", "from ..patching.compiled.engine import attribute", "asked for"),
        ("edgewise.visualize.a", "try:\n    import gguf\nexcept ImportError: pass", "optional"),
    ],
)
def test_the_checker_catches(name: str, source: str, complaint: str) -> None:
    assert any(complaint in line for line in complaints(Module.read(name, source)))


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("edgewise.graphs.a", "from .errors import GraphMismatch\nfrom .names import Edge"),
        ("edgewise.graphs.a", "from .. import __version__"),
        ("edgewise.graphs.lift.families.a", "from ...errors import X\nfrom ..lifted import Block"),
        ("edgewise.patching.a", "from ..graphs.circuit import Circuit\nimport torch"),
        ("edgewise.discovery.a", "from ..patching import runner\nfrom ..graphs import scores"),
        ("edgewise.visualize.a", "def f():\n    import matplotlib\nfrom ..graphs import diff"),
        (
            "edgewise.cli",
            "from .discovery import acdc\nfrom .visualize import dot\nfrom . import spec",
        ),
        ("edgewise.patching.a", "model.eval()\ntorch.load(path, weights_only=True)"),
    ],
)
def test_the_checker_allows(name: str, source: str) -> None:
    assert complaints(Module.read(name, source)) == []


@pytest.mark.parametrize(
    ("sources", "chain"),
    [
        ({"edgewise.a": "import torch"}, "edgewise.a -> torch"),
        ({"edgewise.a": "from torch import nn"}, "edgewise.a -> torch"),
        ({"edgewise.a": "class A:\n    import torch"}, "edgewise.a -> torch"),
        (
            {"edgewise.a": "from . import b", "edgewise.b": "from transformers import AutoModel"},
            "edgewise.a -> edgewise.b -> transformers",
        ),
        ({"edgewise.a": "def f():\n    import torch"}, None),
        ({"edgewise.a": "if TYPE_CHECKING:\n    import torch\nimport torchless"}, None),
        ({"edgewise.a": "def f():\n    from . import b", "edgewise.b": "import torch"}, None),
    ],
)
def test_the_checker_follows_imports(sources: dict[str, str], chain: str | None) -> None:
    modules = {name: Module.read(name, source) for name, source in sources.items()}
    assert heavy_chain("edgewise.a", modules) == chain


def test_a_package_loads_its_parents() -> None:
    modules = {
        "edgewise.a": Module.read("edgewise.a", "from .graphs.names import Edge"),
        "edgewise.graphs": Module.read("edgewise.graphs", "import torch", is_package=True),
        "edgewise.graphs.names": Module.read("edgewise.graphs.names", ""),
    }
    assert heavy_chain("edgewise.a", modules) == "edgewise.a -> edgewise.graphs -> torch"


def _loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter; return the top-level names in sys.modules afterwards."""
    report = "import sys; print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_import_edgewise_is_light() -> None:
    loaded = _loaded_by("import edgewise")
    assert "edgewise" in loaded
    assert loaded.isdisjoint(HEAVY | OPTIONAL | {"numpy", "networkx"})


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_light(command: str) -> None:
    if importlib.util.find_spec("edgewise.cli") is None:
        pytest.skip("the command line does not exist yet")
    arguments = ["edgewise", *command.split(), "--help"]
    run = (
        f"import sys; sys.argv = {arguments}\nfrom edgewise.cli import main\n"
        "try:\n    status = main()\nexcept SystemExit as stop:\n    status = stop.code\n"
        "assert not status, status"
    )
    loaded = _loaded_by(run)
    assert "edgewise" in loaded
    assert loaded.isdisjoint(HEAVY | OPTIONAL)
