"""`edgewise tokens`: what is printed, the file, the picture, wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgewise.graphs.errors import FileFormatError
from edgewise.graphs.files import read_tokens, write_tokens
from edgewise.graphs.files.tables.tokens import TokensFile
from edgewise.session import open_model, open_task
from edgewise.steps.facts.tokens import REST, tokens_found
from edgewise.visualize.charts.tokens import SHOWN, draw_tokens
from tests.edgewise.conftest import Run, id_rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of ids, the second position of each of which is called `second`."""
    path = tmp_path_factory.mktemp("tokens") / "pairs.jsonl"
    named = [{**row, "spans": {"second": 1}} for row in id_rows(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in named))
    return path


@pytest.fixture(scope="module")
def found(models: dict[str, Path], rows: Path) -> TokensFile:
    session = open_model(models["gpt2"])
    pairs, _ = open_task(session, str(rows))
    return tokens_found(session, pairs, steps=4, ablation="mean")


def test_spans_and_the_rest_add_up_to_all_tokens(found: TokensFile) -> None:
    assert [row["span"] for row in found.spans] == ["second", REST]
    for key in ("integrated", "exact"):
        of_spans = sum(row[key] for row in found.spans)  # type: ignore[literal-required]
        total = sum(row[key] for row in found.tokens)  # type: ignore[literal-required]
        assert of_spans == pytest.approx(total / len(found.prompts))
    gaps = [
        sum(row["integrated"] for row in found.of_prompt(i)) - prompt["whole"]
        for i, prompt in enumerate(found.prompts)
    ]
    assert found.measured["gap"] == pytest.approx(np.abs(gaps).mean())
    second = [row for row in found.tokens if row["span"] == "second"]
    assert {row["position"] for row in second} == {1}


def test_a_file_is_read_as_it_was_written(found: TokensFile, tmp_path: Path) -> None:
    write_tokens(tmp_path / "t.json", found)
    again = read_tokens(tmp_path / "t.json")
    assert again.as_dict() == found.as_dict()
    document = found.as_dict()
    for change, words in (
        ({"prompts": found.prompts[:1]}, "a token is of prompt 1; accepted: 0 to 0"),
        ({"tokens": [*found.tokens, found.tokens[0]]}, "it tells of a token twice"),
        ({"prompts": []}, "prompts"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps({**document, **change}))
        with pytest.raises(FileFormatError, match=words):
            read_tokens(tmp_path / "wrong.json")


def test_a_picture_has_every_token_of_the_first_prompts(found: TokensFile) -> None:
    scene = draw_tokens(found, title="Tokens")
    shown = [row for row in found.tokens if row["prompt"] < SHOWN]
    assert len({cell.name for cell in scene.cells if "." in cell.name}) == 2 * len(shown)
    for cell in scene.cells:
        assert 0 <= cell.x <= cell.x + cell.width <= scene.width
        assert 0 <= cell.y <= scene.height
    caption = " ".join(text.text for text in scene.legend.texts)
    assert f"The first {SHOWN} of 10 prompts" in caption


def test_the_command_prints_writes_and_draws(
    edgewise: Run, models: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    asked = ["tokens", "--model", models["gpt2"], "--task", rows, "--steps", 2, "--show", 2]
    path = tmp_path / "t.json"
    shown = edgewise(*asked, "-o", path).stdout
    for words in ("integrated", "exact", "second", "prompt 1", "prompt 2", "gap", "written:"):
        assert words in shown
    assert "prompt 3" not in shown
    file = read_tokens(path)
    assert file.measured["ablation"] == "resample"
    told = json.loads(edgewise(*asked, "--json").stdout)
    assert told["tokens"] == list(file.tokens)
    edgewise("draw", path, "-o", tmp_path / "t.svg")
    assert "integrated" in (tmp_path / "t.svg").read_text()


@pytest.mark.parametrize(
    ("flags", "message", "status"),
    [
        (["--steps", "0"], "--steps", 2),
        (["--metric", "accuracy"], "has no gradient", 1),
        (["--ablation", "nothing"], "unknown ablation", 2),
    ],
)
def test_wrong_requests(
    edgewise: Run, models: dict[str, Path], rows: Path, tmp_path: Path, *,
    flags: list[str], message: str, status: int,
) -> None:  # fmt: skip
    asked = ["tokens", "--model", models["gpt2"], "--task", rows, "-o", tmp_path / "t.json", *flags]
    assert message in edgewise(*asked, status=status).stderr
    assert not list(tmp_path.glob("*"))
