"""Names in files and options reach terminals and drawings as what can be seen, or are refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from edgewise.cli import cli

NASTY = '\x1b[31m<b>\n\u202e\x00\ud800\x9b&quot;\\"|`*_[x](y)'
SHOWN = '\\x1b[31m<b> \\u202e\\x00\\ud800\\x9b&quot;\\"|`*_[x](y)'
SVG = "{http://www.w3.org/2000/svg}"


def is_plain(result: Result) -> bool:
    text = result.stdout + result.stderr
    return all(sign.isprintable() or sign == "\n" for sign in text)


@pytest.fixture
def terminal(edgewise: Any) -> Any:
    """Run the command line as on a terminal, where escape sequences are passed on."""

    def run(*arguments: object, status: int = 0) -> Result:
        result = CliRunner().invoke(cli, [str(one) for one in arguments], color=True)
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture
def circuit(tmp_path: Path) -> Path:
    """Copy a stored circuit."""
    path = tmp_path / "circuit.json"
    shutil.copy(Path(__file__).parents[1] / "data/version1/eap-ig.json", path)
    return path


@pytest.fixture
def named(circuit: Path, tmp_path: Path) -> Path:
    """Give a circuit's file model and task names that are hard to show."""
    document = json.loads(circuit.read_text())
    document["model"]["name"] = document["task"]["name"] = NASTY
    path = tmp_path / "named.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("suffix", ["svg", "dot", "html", "png", "pdf"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_circuits_of_any_name_are_drawn(terminal: Any, named: Path, suffix: str) -> None:
    usual = terminal("draw", named, "-o", f"a.{suffix}", "--layout", "built-in")
    titled = terminal("draw", named, "-o", f"b.{suffix}", "--title", NASTY, "--layout", "built-in")
    assert is_plain(usual) and is_plain(titled)
    if suffix == "svg":
        for name, start in (("a.svg", f"{SHOWN} in {SHOWN}"), ("b.svg", SHOWN)):
            title = ElementTree.parse(name).getroot().findtext(f"{SVG}title") or ""
            assert title.startswith(start)


@pytest.mark.parametrize("kind", ["heat-map", "overlap"])
@pytest.mark.parametrize("suffix", ["svg", "html", "png"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_maps_of_any_label_are_drawn(
    terminal: Any, named: Path, circuit: Path, kind: str, suffix: str
) -> None:
    for labels in ([], ["--label", NASTY, "--label", " "]):
        told = terminal("draw", named, circuit, "--as", kind, *labels, "-o", f"a.{suffix}")
        assert is_plain(told) and SHOWN in told.stdout
        if suffix == "svg":
            assert SHOWN in "".join(ElementTree.parse("a.svg").getroot().itertext())


def test_json_holds_the_name_itself_in_plain_signs(terminal: Any, named: Path) -> None:
    told = terminal("draw", named, "--as", "heat-map", "--label", NASTY, "--json", "-o", "a.svg")
    assert is_plain(told) and json.loads(told.stdout)["panels"] == [NASTY]


def test_errors_show_what_they_quote(terminal: Any, named: Path, tmp_path: Path) -> None:
    assert is_plain(terminal("draw", named, "-o", "a.svg", "--layout", "\x1b[2J\ud800", status=2))
    assert is_plain(terminal("draw", "\x1b[2J\n\udcff.json", "-o", "a.svg", status=1))
    assert is_plain(terminal("draw", named, "-o", "no\x1b[2J\udcff/a.svg", status=1))
    assert "\\x1b" in terminal("draw", named, "-o", "a.\x1b", status=2).stderr


def test_files_of_any_name_are_written(terminal: Any, named: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"a\x1b\n\xff.svg")
    told = terminal("draw", named, "-o", name)
    assert is_plain(told) and "written: a\\x1b \\udcff.svg" in told.stdout
    assert ElementTree.parse(tmp_path / name)


def test_tables_show_what_they_hold(terminal: Any, named: Path, circuit: Path) -> None:
    assert is_plain(terminal("diff", named, circuit, "-o", "d.json"))
    assert is_plain(terminal("draw", "d.json", "-o", "d.svg"))
