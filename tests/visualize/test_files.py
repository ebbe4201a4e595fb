"""The files: SVG, DOT, PNG, PDF; determinism; what happens when they cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from shutil import which
from typing import BinaryIO
from xml.etree import ElementTree

import pytest

from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.errors import EdgewiseError, UnknownName
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.names import Kind, Node
from edgewise.visualize import draw, make_scene, to_svg
from edgewise.visualize.draw import FORMATS

GRAPH = ComputationGraph(4, 3)


def level(node: Node) -> float:
    return node.layer if node.layer is not None else 99 if node.kind is Kind.LOGITS else -1


SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def circuit(sample: Callable) -> Circuit:
    return sample(GRAPH, 25, 2)[0]


def test_svg_names_every_node_and_edge(circuit: Circuit) -> None:
    root = ElementTree.fromstring(to_svg(make_scene(circuit, title='a < b & "c"\x07')))
    nodes = [n for g in root.findall(f"{SVG}g") for n in g if n.get("data-node")]
    assert [n.get("data-node") for n in nodes] == [str(node) for node in circuit.nodes]
    for node in nodes:
        assert node.findtext(f"{SVG}text") == node.get("data-node")
        assert (node.findtext(f"{SVG}title") or "").startswith(node.get("data-node") or "?")
    edges = [e for e in root.iter(f"{SVG}path") if e.get("data-edge")]
    assert sorted(e.get("data-edge") or "" for e in edges) == sorted(map(str, circuit.edges))
    assert all(
        (e.findtext(f"{SVG}title") or "").startswith(e.get("data-edge") or "?") for e in edges
    )
    assert root.findtext(f"{SVG}title") == 'a < b & "c"\\x07'


def test_dot_holds_every_node_and_edge(circuit: Circuit, tmp_path: Path) -> None:
    text = draw(circuit, tmp_path / "c.dot", title='say "hi" \\ there').read_text()
    assert text.count(" -> ") == len(circuit)
    for node in circuit.nodes:
        assert f'  "{node}" [shape=' in text
    assert 'say \\"hi\\" \\\\ there' in text


@pytest.mark.skipif(not which("dot"), reason="no dot here")
def test_dot_files_parse(sample: Callable, tmp_path: Path) -> None:
    a, scores = sample(ComputationGraph(4, 4, 2, grouped_kv=True), 30, 2)
    b, _ = sample(ComputationGraph(4, 4, 2, grouped_kv=True), 30, 3)
    for name, subject, given in [("a", a, scores), ("d", CircuitDiff(a, b), (scores, None))]:
        path = draw(subject, tmp_path / f"{name}.dot", scores=given, title='"\\')
        command = [which("dot") or "", "-Tplain", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stderr == ""
        union = a | b if name == "d" else a
        lines = [line.split() for line in done.stdout.splitlines() if line[:5] == "node "]
        y = {words[1].strip('"'): float(words[3]) for words in lines}
        assert sorted(y) == sorted(map(str, union.nodes))
        for low, high in combinations(sorted(union.nodes, key=level), 2):
            assert level(low) == level(high) or y[str(low)] < y[str(high)]


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_images_are_the_same_every_time(
    circuit: Circuit, suffix: str, start: bytes, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    one, two = (
        draw(circuit, tmp_path / f"{n}.{suffix}", title="$x$ & y").read_bytes() for n in "ab"
    )
    assert one == two and one.startswith(start) and b"CreationDate" not in one
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{suffix}", f"b.{suffix}"]


def test_images_leave_matplotlib_alone(circuit: Circuit, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    draw(circuit, tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before


PROGRAM = """
import sys
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.diff import CircuitDiff
from edgewise.graphs.graph import ComputationGraph
from edgewise.visualize import draw
graph = ComputationGraph(3, 3)
edges = [str(e) for e in Circuit.full(graph).edges]
a, b = (Circuit.empty(graph).with_edges(set(edges[i::4])) for i in (0, 1))
c = a | Circuit.empty(graph).with_edges(set(edges[:20]))
scores = {e: (i % 7 - 2) / 7 for i, e in enumerate(edges)}
folder = sys.argv[1]
draw(a, f"{folder}/a.svg", scores=scores)
draw(a, f"{folder}/b.svg", scores=scores, layout="built-in")
draw(CircuitDiff(b, c), f"{folder}/d.svg", scores=(scores, None))
draw(CircuitDiff(b, c), f"{folder}/d.dot")
draw(a, f"{folder}/a.dot", scores=scores)
assert "matplotlib" not in sys.modules and "torch" not in sys.modules
"""


def test_files_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    found = []
    for seed in ("0", "1", "77"):
        folder = tmp_path / seed
        folder.mkdir()
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=True, env=environment)
        found.append({p.name: p.read_bytes() for p in folder.iterdir()})
    assert len(found[0]) == 5
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["circuit.jpg", "circuit", "circuit.svgz"])
def test_unknown_endings_are_refused(circuit: Circuit, name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"Accepted: \.svg, \.png, \.pdf, \.dot"):
        draw(circuit, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_endings_may_be_capital(circuit: Circuit, tmp_path: Path) -> None:
    assert draw(circuit, str(tmp_path / "C.SVG")).read_text().startswith("<?xml")


@pytest.mark.parametrize("name", ["none/c.svg", "file/c.svg", "none/c.dot"])
def test_missing_folders_are_told(circuit: Circuit, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgewiseError, match=r"cannot write .*c\.(svg|dot)"):
        draw(circuit, tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folders_are_told(circuit: Circuit, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(EdgewiseError, match=r"cannot write .*c\.(svg|dot)"):
            draw(circuit, tmp_path / "c.svg")
    finally:
        tmp_path.chmod(0o700)


def test_a_refused_folder_is_told(
    circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(EdgewiseError, match="permission denied"):
        draw(circuit, tmp_path / "c.svg")


def test_a_target_that_is_a_folder_is_told(circuit: Circuit, tmp_path: Path) -> None:
    (tmp_path / "c.svg").mkdir()
    with pytest.raises(EdgewiseError, match=r"cannot write .*c\.(svg|dot)"):
        draw(circuit, tmp_path / "c.svg")
    assert [p.name for p in tmp_path.iterdir()] == ["c.svg"]


def test_a_stopped_run_keeps_the_old_file(
    circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.svg"
    path.write_text("old")

    def stop(scene: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(FORMATS, ".svg", stop)
    with pytest.raises(KeyboardInterrupt):
        draw(circuit, path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["c.svg", "c.dot", "c.html"])
def test_a_link_stays_a_link(circuit: Circuit, tmp_path: Path, name: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / name)
    (tmp_path / name).symlink_to(tmp_path / "link")
    draw(circuit, tmp_path / name)
    assert (tmp_path / name).is_symlink() and (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / name).stat().st_size > 100


def test_missing_matplotlib_is_told(
    circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [m for m in sys.modules if m.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EdgewiseError, match=r'pip install "edgewise\[draw\]"'):
        draw(circuit, tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []
    draw(circuit, tmp_path / "c.svg")


def test_a_failed_dot_is_a_warning(
    circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewise.visualize.layout.layout.which", lambda _: None)
    with pytest.warns(UserWarning, match="built-in layout was used"):
        draw(circuit, tmp_path / "c.svg", layout="dot")
