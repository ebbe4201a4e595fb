"""What the documents and docstrings say is run: examples, commands, options, links.

Python blocks of a document run in order in one namespace, in an empty folder that shows
`examples/`. Of `edgewise` commands the options are checked against the command's own help; `make`
targets and scripts must exist. A block is left out by a comment right before it that says why:

    <!-- not run: takes an hour -->
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("examples/*/README.md"),
    ]
)
PACKAGES = {
    "edgewise": "edgewise",
    "graphs": "edgewise.graphs",
    "patching": "edgewise.patching",
    "discovery": "edgewise.discovery",
    "visualize": "edgewise.visualize",
}
CODE = ("python", "pycon")
SHELL = ("console", "bash", "sh")
OTHER = (
    "text",
    "json",
    "jsonl",
    "csv",
    "tsv",
    "toml",
    "html",
    "dot",
    "mermaid",
    "diff",
    "math",
    "bibtex",
)

FENCE = re.compile(
    r"(?:^<!--\s*not run:(?P<reason>[^>]*)-->\n+)?"
    r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a document; `reason` is set if it is not to be run."""

    language: str
    code: str
    line: int
    reason: str | None


def blocks(text: str) -> list[Block]:
    """List the fenced blocks; `line` is the one before the first line of code."""
    return [
        Block(
            match["language"].strip(),
            re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE),
            text.count("\n", 0, match.start("code")),
            None if match["reason"] is None else match["reason"].strip(),
        )
        for match in FENCE.finditer(text)
    ]


def run_python(block: Block, name: str, namespace: dict[str, Any]) -> None:
    """Run a block, a `>>>` session or plain code, so that a traceback shows the document's line."""
    if block.language == "pycon" or block.code.lstrip().startswith(">>>"):
        session = doctest.DocTestParser().get_doctest(block.code, {}, name, name, block.line)
        session.globs = namespace
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(session, clear_globs=False)
        assert result.failed == 0, f"{name}, line {block.line}: the session gives something else"
    else:
        exec(compile("\n" * block.line + block.code, name, "exec", dont_inherit=True), namespace)


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the command lines of a shell block as words; in a console block, of `$` lines only."""
    text = re.sub(r"\\\n>?\s*", " ", block.code)
    lines = text.splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        words = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        words.whitespace_split = True
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= set("|&;"):
                if command:
                    yield command
                command = []
            elif command or not re.fullmatch(r"\w+=.*", word):
                command.append(word)


def command_errors(words: list[str]) -> list[str]:
    """Say what is wrong with a command line: an unknown option, target or script."""
    if words[0] == "edgewise":
        given = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[A-Za-z]", word)]
        name = next((word for word in words[1:] if not word.startswith("-")), "")
        known = help_text(name)
        if known is None:
            return [f"edgewise has no command {name}"]
        accepted = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", known)) | {"--help"}
        return [f"edgewise {name} has no option {o}" for o in given if o not in accepted]
    if words[0] == "make":
        known = (ROOT / "Makefile").read_text(encoding="utf-8")
        targets = [word for word in words[1:] if "=" not in word]
        return [f"no target {t}" for t in targets if not re.search(rf"^{t}:", known, re.MULTILINE)]
    if words[0] in ("python", "python3") and len(words) > 1 and words[1].endswith(".py"):
        return [] if (ROOT / words[1]).is_file() else [f"no script {words[1]}"]
    return []


@cache
def help_text(command: str) -> str | None:
    """What `edgewise COMMAND --help` prints; None if there is no such command."""
    if importlib.util.find_spec("edgewise.cli") is None:
        pytest.skip("the command line does not exist yet")
    code = "import sys; from edgewise.cli import main; sys.argv[0] = 'edgewise'; sys.exit(main())"
    arguments = [sys.executable, "-c", code, *command.split(), "--help"]
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode in (0, 2), done.stderr
    return done.stdout if done.returncode == 0 else None


def slugs(text: str) -> set[str]:
    """Name the anchors that the headings of a document get."""
    headings = re.findall(r"^#+\s+(.*?)\s*$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def link_errors(document: Path) -> list[str]:
    """List the links of a document that lead to no file, or to no heading of it."""
    text = document.read_text(encoding="utf-8")
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", prose)
    targets += re.findall(r"(?:src|href)=[\"']([^\"']+)", prose)
    errors = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        if not found.exists():
            errors.append(f"{target}: no such file")
        elif anchor and anchor not in slugs(found.read_text(encoding="utf-8")):
            errors.append(f"{target}: no such heading")
    return errors


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _shell_lines() -> list[Any]:
    lines = []
    for document in DOCUMENTS:
        for block in blocks(document.read_text(encoding="utf-8")):
            if block.language in SHELL and block.reason is None:
                label = f"{_name(document)}:{block.line}"
                lines += [
                    pytest.param(words, id=f"{label} {' '.join(words)}")
                    for words in commands(block)
                ]
    return lines


def _modules() -> list[Any]:
    found = []
    for folder, package in PACKAGES.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found.append(pytest.param(name, path, id=name))
    return found


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "path"), _modules())
@pytest.mark.usefixtures("in_empty_folder")
def test_docstrings(name: str, path: Path) -> None:
    module = importlib.import_module(name)
    assert Path(module.__file__ or "").resolve() == path, "the tests see another installation"
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
@pytest.mark.usefixtures("in_empty_folder")
def test_python_blocks(document: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(document.read_text(encoding="utf-8")):
        if block.language in CODE and block.reason is None:
            run_python(block, str(document), namespace)


@pytest.mark.parametrize("words", _shell_lines())
def test_commands(words: list[str]) -> None:
    assert command_errors(words) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links(document: Path) -> None:
    assert link_errors(document) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_blocks_name_their_language_and_reason(document: Path) -> None:
    for block in blocks(document.read_text(encoding="utf-8")):
        assert block.language in (*CODE, *SHELL, *OTHER), f"line {block.line}"
        assert block.reason != "", f"line {block.line}: say why the block is not run"


SAMPLE = """
# A *first* Heading

```python
x = 1
```

<!-- not run: needs a large model -->
```python
x = 2
```

- listed:

  ```console
  $ SEED=1 edgewise discover --task ioi \\
  >     -o circuit.json | tee log  # comment
  edgewise is what the output says
  $ make demo && python examples/none.py
  ```

See [a](missing.md), [b](#a-first-heading), [c](#another) and ![d](sample.md) or `[e](f)`.
"""


def test_blocks_are_found() -> None:
    found = blocks(SAMPLE)
    assert [b.language for b in found] == ["python", "python", "console"]
    assert [b.reason for b in found] == [None, "needs a large model", None]
    assert [b.line for b in found[:2]] == [4, 9]
    assert found[0].code == "x = 1\n"


def test_commands_are_found() -> None:
    assert list(commands(blocks(SAMPLE)[2])) == [
        ["edgewise", "discover", "--task", "ioi", "-o", "circuit.json"],
        ["tee", "log"],
        ["make", "demo"],
        ["python", "examples/none.py"],
    ]


def test_wrong_commands_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    helps = {"discover": "  -o, --output FILE\n  --task TEXT  also see --method", "": "--version"}
    monkeypatch.setitem(globals(), "help_text", helps.get)
    assert command_errors(["edgewise", "discover", "--task=ioi", "-o", "a.json"]) == []
    assert command_errors(["edgewise", "--version"]) == []
    assert command_errors(["edgewise", "discover", "--tsk"]) == [
        "edgewise discover has no option --tsk"
    ]
    assert command_errors(["edgewise", "discvoer"]) == ["edgewise has no command discvoer"]
    assert command_errors(["make", "dmeo"]) == ["no target dmeo"]
    assert command_errors(["make", "demo", "PYTHON=python3"]) == []
    assert command_errors(["python", "examples/none.py"]) == ["no script examples/none.py"]


def test_wrong_links_are_caught(tmp_path: Path) -> None:
    document = tmp_path / "sample.md"
    document.write_text(SAMPLE, encoding="utf-8")
    assert link_errors(document) == ["missing.md: no such file", "#another: no such heading"]


def test_wrong_python_is_caught() -> None:
    with pytest.raises(ZeroDivisionError):
        run_python(Block("python", "1 / 0", 3, None), "sample", {})
    with pytest.raises(AssertionError, match="line 3"):
        run_python(Block("python", ">>> 1 + 1\n3\n", 3, None), "sample", {})
    namespace: dict[str, Any] = {"x": 1}
    run_python(Block("pycon", ">>> x + 1\n2\n>>> y = x\n", 3, None), "sample", namespace)
    assert namespace["y"] == 1
