"""The generated tables of the documents are those the program's registries give."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgewise.experiment.spec import TABLES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_up_to_date(page: Path, generator: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    assert generator.renewed(text) == text, "run: python docs/generate.py"


def test_every_table_stands_on_a_page(generator: ModuleType) -> None:
    used = {m["name"] for p in PAGES for m in generator.PLACE.finditer(p.read_text("utf-8"))}
    assert used == set(generator.TABLES)


def test_the_declared_experiment_shows_every_table_and_key(generator: ModuleType) -> None:
    shown = tomllib.loads(generator.spec().removeprefix("```toml\n").removesuffix("```\n"))
    assert shown.keys() == {"experiment", "models", *TABLES}
    for name, part in TABLES.items():
        keys = set(part.declared()) - {"options", "select", "file", "delta"}  # beside, or instead
        assert keys <= shown[name].keys(), name


def test_outdated_tables_are_caught(generator: ModuleType) -> None:
    stale = "<!-- generated: ablations -->\nold\n<!-- end -->"
    fresh = generator.renewed(stale)
    assert "old" not in fresh
    assert "`resample`" in fresh
    assert generator.renewed(fresh) == fresh
