"""The report: its numbers are those of the files, its links lead somewhere, its form holds."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from edgewise.experiment.document import parse_spec, read_spec
from edgewise.experiment.spec import Experiment
from edgewise.graphs.calls.text import visible, visible_lines
from edgewise.graphs.files import read_circuit, read_diff, read_scores
from edgewise.report.findings import read_findings
from edgewise.report.page import to_page
from edgewise.report.report import code, fenced, number, ratio, settings, templates, write_report
from edgewise.report.report import text as escaped
from edgewise.run import RunResult, run


@pytest.fixture(scope="module")
def result(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Experiment, RunResult]:
    """Run a small experiment with a curve, two models and images in two formats."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        {
            "clean_ids": [n, 2, 3, n + 1],
            "corrupted_ids": [n, 2, 4, n + 1],
            "answer_ids": [3],
            "distractor_ids": [7],
        }
        for n in range(4)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = parse_spec(
        f"""
        [experiment]
        name = "tiny_models"
        description = "Two *random* models."
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [[models]]
        source = "{models["tuned"]}"
        name = "my_variant"
        [task]
        file = "pairs.jsonl"
        [discovery]
        method = "eap-ig"
        top = 40
        [evaluation]
        metrics = ["logit_diff", "kl"]
        curve = true
        [drawing]
        formats = ["png", "svg"]
        layout = "built-in"
        """,
        folder=folder,
    )
    return spec, run(spec, folder / "out")


def rows_of(text: str, first: str) -> list[list[str]]:
    """Return the cells of the rows of every table that has this first cell in its head."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not re.fullmatch("-+:?", cells[0]):
            found.append(cells)
    return found


def test_measured_values_are_in_the_tables(result: tuple[Experiment, RunResult]) -> None:
    _, done = result
    text = done.report.read_text()
    evaluation = json.loads(done.evaluation.read_text())["models"]
    for index, metric in enumerate(("logit_diff", "kl")):
        for row, name in zip(rows_of(text, f"`{metric}`"), ("base", "my_variant"), strict=True):
            found = evaluation[name]["metrics"][index]
            assert row[0] == escaped(name)
            for cell, key in ((row[1], "faithfulness"), (row[2], "completeness")):
                assert cell == ("undefined" if found["undefined"] else ratio(found[key]))
            keys = ("value_full", "value_circuit", "value_empty", "value_complement")
            assert row[3:] == [number(found[key]) for key in keys]
    sizes = rows_of(text, "circuit of")
    for row, path in zip(sizes, done.circuits.values(), strict=True):
        file = read_circuit(path)
        assert row[1] == "40"
        assert row[2] == f"{40 / file.circuit.graph.edge_count:.2%}"
        assert row[3] == str(len(file.circuit.nodes))
    curve = evaluation["base"]["curve"]
    assert [row[0] for row in rows_of(text, "edges")[:10]] == [str(n) for n in curve["sizes"]]
    cmd = "undefined" if curve["undefined"] else ratio(curve["cmd"])
    assert rows_of(text, "edges")[11][:2] == ["CMD", cmd]
    certificate = rows_of(text, "model")[0][5:]
    proof = read_circuit(done.circuits["base"]).certificate
    assert certificate == [f"{proof[key]:.1e}" for key in ("kept_all", "kept_none", "stream")]


def test_the_first_lines_say_what_was_found(result: tuple[Experiment, RunResult]) -> None:
    _, done = result
    text = done.report.read_text()
    file = read_circuit(done.circuits["base"])
    total, measures = file.circuit.graph.edge_count, file.measures
    assert text.startswith("# tiny\\_models\n\nTwo \\*random\\* models.\n\n* **base**: 40 of ")
    assert f"40 of {total:,} edges ({40 / total:.2%}) give `logit_diff`" in text
    said = f"{measures['faithfulness']:.3f}."
    if measures["in_sample"]["faithfulness"] is None:
        said = "is undefined: full − no edge is"
    assert f"faithfulness {said}" in text
    assert "In sample only, on 4 pairs: nothing was held out." in text
    edges = read_diff(done.diffs["my_variant"]).diff.summary().edges
    assert (
        f"share {edges.shared} edges; {edges.only_a} are only in base, {edges.only_b} only in "
        f"my\\_variant (Jaccard {edges.jaccard:.3f}, by chance {edges.expected:.3f})." in text
    )


def test_the_diffs_tables_add_up(result: tuple[Experiment, RunResult]) -> None:
    _, done = result
    text = done.report.read_text()
    summary = read_diff(done.diffs["my_variant"]).diff.summary()
    diff = text[text.index("## base and my") :]
    by_layer = rows_of(diff, "edges into layer")
    assert sum(int(row[1]) for row in by_layer) == summary.edges.shared
    by_kind = rows_of(diff, "edges into")
    assert sum(int(row[2]) for row in by_kind) == summary.edges.only_a
    assert rows_of(diff, "")[0][1:4] == [
        str(n) for n in (summary.edges.shared, summary.edges.only_a, summary.edges.only_b)
    ]
    assert "### What changed" in diff and "was not tested" not in diff
    assert "significant" not in text


def test_the_edges_that_changed_most_are_those(result: tuple[Experiment, RunResult]) -> None:
    _, done = result
    text = done.report.read_text()
    a, b = (read_scores(path).scores for path in done.circuits.values())
    rows = rows_of(text[text.index("changed most") :], "edge")
    assert len(rows) == 15
    change = np.abs(b.values - a.values)
    row, column = np.unravel_index(np.nanargmax(change), change.shape)
    assert rows[0][0] == f"`{a.graph.edge_at(row, column)}`"
    changes = [abs(float(cells[3])) for cells in rows]
    assert changes == sorted(changes, reverse=True)
    diff = read_diff(done.diffs["my_variant"]).diff
    for cells in rows:
        edge = cells[0].strip("`")
        assert float(cells[1]) == pytest.approx(a[edge], rel=1e-3)
        where = {(True, True): "both", (True, False): "base", (False, True): "my\\_variant"}
        assert cells[4] == where.get((edge in diff.a, edge in diff.b), "neither")


def test_every_link_and_picture_is_there(result: tuple[Experiment, RunResult]) -> None:
    _, done = result
    text = done.report.read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert {"images/base.png", "images/base_vs_my_variant.png", "spec.toml"} <= set(links)
    assert all((done.output / link).is_file() for link in links)
    assert "images/heat-maps/base_vs_my_variant.png" in links
    assert text.count("![") == 4


def test_every_table_is_whole(result: tuple[Experiment, RunResult]) -> None:
    widths: list[int] = []
    for line in result[1].report.read_text().splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        if not cells:
            widths = []
            continue
        widths.append(cells)
        assert cells == widths[0], line


def test_a_variant_equal_to_the_base(result: tuple[Experiment, RunResult], tmp_path: Path) -> None:
    spec, _ = result
    same = (spec.models[0], replace(spec.models[0], name="copy"))
    text = run(replace(spec, models=same), tmp_path / "out").report.read_text()
    assert "share 40 edges; 0 are only in base, 0 only in copy (Jaccard 1.000" in text
    assert "No edge has a score in both models that differs." in text


def test_a_stored_run_is_told_in_the_same_words(tmp_path: Path) -> None:
    """Paragraph by paragraph as the last version, but for what its test of edges carried."""
    shutil.copytree(Path(__file__).parents[1] / "data/version1", tmp_path / "stored")
    folder = tmp_path / "stored/run"
    before = (folder / "report.md").read_text()
    write_report(read_spec(folder / "spec.toml"), folder)
    after = (folder / "report.md").read_text()
    gone = [part for part in before.split("\n\n") if part not in after.split("\n\n")]
    assert len(gone) <= 6 and all(
        re.search("noise floor|^Tested|^Corrected is|^\\* \\*\\*", part) for part in gone
    )
    assert len(before) > 5000 and "### Function" in before
    assert "noise floor" not in after and "### How stable the sets are" in after


def test_parts_of_markdown() -> None:
    assert escaped("a_b|<c>\n d") == "a\\_b\\|\\<c\\> d"
    assert code("a|`b`") == "`a¦'b'`"
    values = {"a": True, "b_b": 1, "c": None, "d": 2.5, "e": ["x", "y"], "f": False}
    assert settings(values) == "a on, b\\_b 1, c –, d 2.5, e x y, f off"
    assert fenced(["a\x1b[0m\n```", "`b"]) == "````text\na\\x1b[0m\n```\n`b\n````"
    assert [ratio(None), ratio(0.9), number(None), number(1234.5)] == [
        "–", "0.900", "–", "1234",
    ]  # fmt: skip


def test_the_page_holds_what_the_report_says(result: tuple[Experiment, RunResult]) -> None:
    _, done = result
    page, text = done.page.read_text(), done.report.read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    told = [html.unescape(found) for found in re.findall(r"<h\d>(.*?)</h\d>", page)]
    assert told == [heading.replace("\\", "") for heading in headings]
    assert page.count("<svg") == 4  # the SVG of every picture, in place of the PNG
    assert page.count("<figure>") == 4 and "<img" not in page
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    rows = [line[1:-1] for line in text.splitlines() if line.startswith("|")]
    rows = [row for row in rows if not re.fullmatch(r"[ |:-]*---[ |:-]*", row)]
    heads = len(re.findall(r"<th(?: [^>]*)?>", page))
    assert len(cells) + heads == sum(len(re.split(r"(?<!\\)\|", row)) for row in rows)
    for link in re.findall(r'href="([^"]+)"', page):
        assert (done.output / link).is_file()


NASTY = "\x1b[31m<b>&amp;\n# x\u202e\x00\ud800|`*_[x](y)![z](w) ```\n\\"
NAMES = (
    NASTY, "# x", "- x", "+ x", "1. x", "12) x", "---", "===", "~~~", "&lt;", "<!--", "> x",
)  # fmt: skip


def shown_words(name: str) -> str:
    """Return a name as a page's words have it."""
    return " ".join(visible(name).split())


class Tags(HTMLParser):
    """Collect a page's tags and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.parametrize("given", NAMES)
def test_nothing_that_people_name_is_taken_for_markup(
    result: tuple[Experiment, RunResult], tmp_path: Path, given: str
) -> None:
    """Give everything that can be named a plain name, then a nasty one: only the words differ."""
    spec, done = result
    found = read_findings(spec, done.output)

    def page(name: str) -> Tags:
        sample = {"clean": name, "corrupted": name, "answers": [name], "distractors": [name]}
        nasty_prompts = {"name": name, "sample": sample, "options": {name: name}, "left_out": name}
        prompts = {**found.prompts, **nasty_prompts}
        circuits = []
        for one in found.circuits:
            model = {**one.file.model, "name": name}
            about = {**one.file.discovery, "dtype": name, "device": name, "versions": {name: name}}
            file = replace(one.file, model=model, discovery=about)
            pictures = [picture._replace(words=name) for picture in one.pictures]
            circuits.append(one._replace(name=name, file=file, pictures=pictures))
        (diff,) = found.diffs
        file = replace(diff.file, a={**diff.file.a, "task": {"name": name}})
        diff = replace(diff, a=name, b=name, file=file)
        named = replace(spec, name=name, description=name)
        nasty = replace(found, spec=named, prompts=prompts, circuits=circuits, diffs=[diff])
        text = templates().get_template("report.md.j2").render(run=nasty)
        assert all(sign.isprintable() or sign == "\n" for sign in text)
        return Tags(to_page(text, title=name, folder=tmp_path))

    plain, nasty = page("plain"), page(given)
    assert nasty.tags == plain.tags
    words = shown_words(given)
    code = words.replace("`", "'").replace("|", "¦")
    fenced = visible_lines(given)
    page_words = " ".join(nasty.words.split())
    for expected in (words, code, " ".join(fenced.split())):
        assert expected in page_words
    # all of them, but for what one name holds of another
    blank = len(re.findall(re.escape(words) + "|" + re.escape(code), page_words))
    assert blank >= plain.words.count("plain")
