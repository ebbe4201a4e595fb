"""Run the commands of a page again, and put what they print where it stands.

    python docs/outputs.py docs/tutorial.md [--folder DIR]

Every block of commands (```console) that another of output (```text) follows is run in one folder,
in the page's order, and so are those that none follows but which call edgewise and write a file
(-o). The output is what a pipe gets. It takes the minutes that the page's reader would need, so no
test does it. Figures in sentences stay: read the page. A command that fails is named, and stops it;
with --folder, what ran there before is not run again until the folder is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"```console\n(?P<commands>.*?)```\n(\n```text\n(?P<output>.*?)```\n)?", re.DOTALL
)


def commands_of(block: str) -> list[str]:
    """Return the commands of a block, continued lines joined.

    >>> commands_of("$ edgewise lift \\\\\\n    gpt2\\n$ ls\\n")
    ['edgewise lift gpt2', 'ls']
    """
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")]


def run(command: str, folder: Path) -> str:
    """Run a command in a folder, unless it ran there, and return what it prints."""
    record = folder / "outputs.json"
    outputs: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    if command in outputs:
        return outputs[command]
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    sys.stderr.write(f"$ {command}\n")
    done = subprocess.run(
        ["bash", "-c", command], check=False, cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PATH": path, "COLUMNS": "80"},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout}{done.stderr}")
    record.write_text(json.dumps({**outputs, command: done.stdout}))
    return done.stdout


def page_again(text: str, folder: Path) -> str:
    """Return a page with its outputs as the commands print them now."""

    def again(found: re.Match[str]) -> str:
        commands = commands_of(found["commands"])
        if found["output"] is None:
            for command in commands:
                if command.startswith("edgewise") and " -o " in command:
                    run(command, folder)
            return found[0]
        output = "".join(run(command, folder) for command in commands).strip("\n")
        return found[0].replace(f"```text\n{found['output']}```", f"```text\n{output}\n```")

    return BLOCK.sub(again, text)


def main() -> None:
    """Write pages anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--folder", type=Path, help="where to run; default: one that is deleted")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "examples").exists():
            (folder / "examples").symlink_to(ROOT / "examples")
        for page in given.pages:
            page.write_text(page_again(page.read_text(), folder))


if __name__ == "__main__":
    main()
