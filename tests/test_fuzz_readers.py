"""Every reader against changed files: each ends in a value or a paragraph, quickly, in little room.

A process of bounded memory reads the files (`tests/fuzz.py`), each kind some times in a default
run; `EDGEWISE_FUZZ=20` makes it twenty times as many, `EDGEWISE_FUZZ_SEED=7` others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgewise.cli import cli
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.errors import EdgewiseError, FileFormatError, PromptError, SpecError
from edgewise.graphs.files import (
    read_any,
    read_circuit,
    read_scores,
    read_timeline,
    read_transplant,
    scores_path,
    write_scores,
)
from edgewise.graphs.files.exchange import read_eap_ig, write_eap_ig
from edgewise.graphs.graph import ComputationGraph
from edgewise.graphs.scores import Scores
from tests.fuzz import KINDS

TIMES = float(os.environ.get("EDGEWISE_FUZZ", "1"))
SEED = os.environ.get("EDGEWISE_FUZZ_SEED", "0")

GROUPS: dict[str, int] = {
    "circuit,diff,timeline,roles,transplant,scores": 120,
    "eap-json,eap-pt,acdc,edge-pruning,prompts,texts,spec": 200,
    "prompts-table,prompts-years,prompts-document,prompts-columns,prompts-relation,prompts-facts,"
    "prompts-masked,prompts-chat": 40,
    "config-gpt2,config-llama,weights,adapter,adapter-weights,tokenizer,tokenizer-config": 15,
    "gguf": 15,
    "journal,run-ledger,run-task,run-evaluation,run-prompts,kept-ledger,kept-measures": 12,
}
"""Kinds that one process reads one after the other, and how many files of each."""


def test_every_kind_is_fuzzed() -> None:
    assert sorted(KINDS) == sorted(kind for group in GROUPS for kind in group.split(","))


@pytest.mark.slow
@pytest.mark.parametrize("kinds", GROUPS)
def test_changed_files_are_read_or_refused(kinds: str) -> None:
    if "gguf" in kinds:
        pytest.importorskip("gguf")
    if "adapter" in kinds:
        pytest.importorskip("peft")
    count = str(max(1, round(GROUPS[kinds] * TIMES)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", kinds, count, SEED],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120 + 60 * TIMES * len(GROUPS),
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    found = [line for line in lines if "error" in line]
    assert not found, "\n".join(f"{one}\n{one['error']}" for one in found[:3])
    assert [line["done"] for line in lines] == kinds.split(","), done.stderr[-2000:]


# -- found before, each by name -----------------------------------------------------------------


def quick(seconds: float = 5) -> Any:
    """Fail if what is done inside takes longer."""

    class Clock:
        def __enter__(self) -> None:
            self.start = time.process_time()

        def __exit__(self, *_: object) -> None:
            assert time.process_time() - self.start < seconds

    return Clock()


TINY = ComputationGraph(layers=2, heads=2)


def test_scores_of_a_billion_heads(tmp_path: Path) -> None:
    scores = Scores(TINY, np.where(TINY.reads, 1.0, np.nan))
    path = write_scores(tmp_path / "c.json", scores, method="eap", metric="kl", ablation="zero")
    content = path.read_bytes()
    for heads in (b"1000000000", b"20000", b"10"):  # too large for any mask; for this tensor
        size = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + size].replace(b'\\"heads\\": 2', b'\\"heads\\": ' + heads)
        header = header.replace(b'\\"kv_heads\\": 2', b'\\"kv_heads\\": ' + heads)
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + size :])
        words = "larger than any|of shape|no graph"
        with quick(), pytest.raises(FileFormatError, match=words):
            read_scores(path)
    assert scores_path(path) == path


VERSION1 = Path(__file__).parent / "data" / "version1"
SMALL = {
    "acdc": lambda one: one["model"],
    "diff": lambda one: one["a"]["model"],
    "timeline": lambda one: one["checkpoints"][0]["model"],
    "transplant": lambda one: one["a"]["model"],
}


def enlarged(name: str, path: Path, **shape: Any) -> ComputationGraph:
    """Write a small file again that says it is of a large graph, with counts that fit."""
    document = json.loads((VERSION1 / f"{name}.json").read_text("utf-8"))
    model = SMALL[name](document)
    model |= shape
    fields = ("layers", "heads", "kv_heads", "experts")
    graph = ComputationGraph(**{key: model[key] for key in fields if key in model})
    ports, senders = graph.size
    document["graph"] |= {"ports": ports, "senders": senders, "edges": 7}
    if ports * senders < 10**7:
        document["graph"]["edges"] = graph.edge_count
    path.write_text(json.dumps(document))
    return graph


@pytest.mark.parametrize(
    "shape",
    [
        {"heads": 9000, "kv_heads": 9000},
        {"layers": 5000, "heads": 2},
        {"layers": 1, "heads": 2, "kv_heads": 2, "experts": [2 * 10**7]},
    ],
)
@pytest.mark.parametrize("name", SMALL)
def test_a_small_file_of_a_large_graph_is_refused_before_it_takes_memory(
    tmp_path: Path, name: str, shape: dict[str, Any]
) -> None:
    path = tmp_path / "large.json"
    enlarged(name, path, **shape)
    readers = {"timeline": read_timeline, "transplant": read_transplant}
    with quick(), peak(50), pytest.raises(FileFormatError, match=r"takes about \d+ MB of memory"):
        readers.get(name, read_any)(path)


def test_the_largest_graph_that_a_small_file_may_have_fits_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    graph = enlarged("acdc", path, heads=800, kv_heads=800)
    with peak(200):
        assert read_circuit(path).circuit.graph == graph
    enlarged("acdc", path, layers=32, heads=32, kv_heads=8)  # Llama-3.1-8B with a few edges
    assert len(read_circuit(path).circuit) > 0


@contextmanager
def peak(most: float) -> Iterator[None]:
    """Fail if what is done inside takes more MB of memory at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".json", ".pt"])
@pytest.mark.parametrize("sizes", [(10**9, 2), (2, 10**9), (500, 100), (10**400, 1), (True, 1)])
def test_a_small_file_of_eap_ig_that_names_a_large_graph(
    tmp_path: Path, suffix: str, sizes: tuple[int, int]
) -> None:
    import torch

    path = tmp_path / f"g{suffix}"
    write_eap_ig(path, Circuit.full(TINY), d_model=8)
    content: Any = json.loads(path.read_text()) if suffix == ".json" else torch.load(path)
    content["cfg"] |= {"n_layers": sizes[0], "n_heads": sizes[1]}
    if suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        graph = (1, 1) if max(sizes) > 10**6 else (10**5, 10**5)
        content["edges_scores"] = torch.zeros(1).expand(graph)  # of one number, stretched
        torch.save(content, path)
    with quick(), pytest.raises(FileFormatError):
        read_eap_ig(path)


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 10**15},
        {"hidden_size": 10**6, "intermediate_size": 10**6},
        {"vocab_size": 10**11},
        {"num_labels": 10**9},
        {"num_attention_heads": 10**9, "head_dim": 1},
        {"num_hidden_layers": "many"},
        {"architectures": [3]},
        {"model_type": ["llama"]},
        {"rope_parameters": 3},
    ],
)
def test_a_config_of_another_size_is_refused_before_a_model_is_built(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    from edgewise.graphs.load.loading import load
    from tests.saved import edit, tiny

    tiny().save_pretrained(tmp_path)
    load(tmp_path, device="cpu")
    edit(tmp_path / "config.json", **change)
    with quick(), pytest.raises(EdgewiseError):
        load(tmp_path, device="cpu")


def test_a_million_layers_are_told_in_a_paragraph(tmp_path: Path) -> None:
    from tests.saved import edit, tiny

    tiny("gpt2").save_pretrained(tmp_path)
    edit(tmp_path / "config.json", n_layer=10**6)
    with quick():
        result = CliRunner().invoke(cli, ["lift", str(tmp_path)])
    assert result.exit_code == 1
    assert "says n_layer is 1000000, but its weights are" in result.output


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    from edgewise.experiment.document import read_spec
    from edgewise.patching.prompts.pair_files import read_pairs

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    readers = ((read_circuit, FileFormatError), (read_pairs, PromptError), (read_spec, SpecError))
    for path in ("/dev/zero", pipe):
        for read, error in readers:
            with quick(), pytest.raises(error, match="a device or pipe, not a file"):
                read(path)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "a link that leads nowhere"])
def test_what_stands_for_a_configuration_and_is_no_file_is_named(
    tmp_path: Path, kind: str, name: str
) -> None:
    from edgewise.graphs.errors import ModelNotFound
    from edgewise.graphs.load.loading import load

    path = tmp_path / name
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else "gone")
    with quick(), pytest.raises(ModelNotFound, match=rf"/{name}' is a directory, device, pipe or"):
        load(str(tmp_path))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_commands_do_not_wait_for_a_pipe(tmp_path: Path, kind: str) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out.json"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    asked = ("--model", str(tmp_path), "--task", str(path), "--method", "eap", "--top", "3")
    commands: tuple[tuple[str, ...], ...] = (
        ("discover", *asked, "-o", str(out)),
        ("evaluate", str(path)),
        ("diff", str(path), str(path)),
        ("draw", str(path), "-o", f"{out}.svg"),
        ("roles", str(path)),
        ("run", str(path), "-o", f"{out}.run"),
        ("lift", str(path)),
    )
    for command in commands:
        result = CliRunner().invoke(cli, command)
        assert result.exit_code in (1, 2), result.output
        assert "device or pipe" in result.output
    assert not out.exists()


def test_a_file_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    from edgewise.experiment.document import read_spec

    path = tmp_path / "spec.toml"
    with path.open("wb") as file:
        file.truncate(2**40)  # of nothing but zeros, without room on the disk
    with quick(), pytest.raises(SpecError, match=r"too large for .* more than 16 MB"):
        read_spec(path)
    with quick(), pytest.raises(PromptError, match="more than 256 MB"):
        from edgewise.patching.prompts.pair_files import read_pairs

        read_pairs(path)


def test_zeros_are_not_taken_for_text_however_many_they_are(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    with path.open("wb") as file:
        file.write(b"{}")
        file.truncate(10**9)
    tracemalloc.start()
    with quick(), pytest.raises(FileFormatError, match=r"not text \(UTF-8\)"):
        read_circuit(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**26


def test_what_is_quoted_of_a_file_is_bounded(tmp_path: Path) -> None:
    (path := tmp_path / "spec.toml").write_text("a" * 10**6 + " b")
    result = CliRunner().invoke(cli, ["run", str(path)])
    assert result.exit_code == 1 and result.output.startswith(f"Error: {path} is not TOML: line 1")
    assert len(result.output) < 5000 and " … " in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ('{"format": ' + "[" * 500 + "]" * 500 + "}", "nested deeper than 64"),
        ('{"format": 1' + "0" * 400 + "}", "more than 20 digits"),
        ('{"format": 1' + "0" * 9000 + "}", "more than 20 digits"),
        ('{"format": 1e999}', "too large for a float"),
    ],
)
def test_json_that_no_reader_takes(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=words):
        read_circuit(path)
