"""Read changed files in a process of bounded memory, and print what does not end well.

    python -m tests.fuzz circuit,diff 300 0 [--case N]

For each kind of file so many mutations, from a seed. Every one must end in a value or an
`EdgewiseError` (told by the command line in a paragraph), in seconds, with little memory. Findings
are printed as lines of JSON. `tests/test_fuzz_readers.py` runs it; by hand it is run much longer.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.mutations import mutated_bytes, mutated_json, mutated_lines, mutated_safetensors

SECONDS = 8
"""Most seconds of processor time a case may take."""

MEMORY = 900 * 2**20
"""Most bytes a case may take, beyond what the process has when it begins."""

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))


class TooLong(BaseException):
    """A case took more than its seconds; no handler of exceptions catches it."""


@dataclass(frozen=True)
class Kind:
    """A good file, how to change it, and what is done with it, one way chosen for each case."""

    path: Path
    mutate: Callable[[bytes, random.Random], bytes]
    uses: tuple[Callable[[], object], ...]


# -- running ------------------------------------------------------------------------------------


def command(*arguments: object) -> None:
    """Run the command line; raise if it ends in anything but a result or a paragraph."""
    from edgewise.cli import cli, guarded

    out, err = io.StringIO(), io.StringIO()
    given = [str(one) for one in arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = guarded(lambda: cli.main(given, "edgewise", standalone_mode=False))
    told = err.getvalue()
    if status not in (0, 1, 2) or "mistake in edgewise" in told or "the memory " in told:
        raise AssertionError(f"{' '.join(given)[:200]}: {told[-1500:]}")
    (out.getvalue() + told).encode()  # no half of a surrogate pair


def made(path: Path, *arguments: object) -> Path:
    """Write a good file by the command line."""
    command(*arguments, "-o", path)
    assert path.is_file(), arguments
    return path


def attempt(use: Callable[[], object]) -> None:
    """Use a file from Python; an error of this project is a good end."""
    from edgewise.graphs.errors import EdgewiseError

    with contextlib.suppress(EdgewiseError):
        use()


def run(kind: str, count: int, seed: int, only: int | None = None) -> Iterator[dict[str, object]]:
    """Run the cases of a kind; yield those that end badly."""
    one = KINDS[kind]()
    good = one.path.read_bytes()
    for use in one.uses:
        use()
    limited()
    signal.signal(signal.SIGPROF, _too_long)
    for number in range(count) if only is None else [only]:
        draw = random.Random(f"{kind} {seed} {number}")
        content = one.mutate(good, draw)
        use = draw.choice(one.uses)
        one.path.write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            use()
        except (Exception, TooLong) as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            lines = traceback.format_exception(error)
            yield {"kind": kind, "seed": seed, "case": number, "error": "".join(lines)[-2500:]}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    one.path.write_bytes(good)


def _too_long(*_: object) -> None:
    raise TooLong


def limited() -> None:
    """Bound the memory of this process a little above what it has now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


# -- good files ---------------------------------------------------------------------------------


def _json(content: bytes, draw: random.Random) -> bytes:
    return mutated_json(json.loads(content), draw)


@cache
def model(name: str = "gpt2", seed: int = 0) -> Path:
    """Save a tiny model with a tokenizer."""
    from tests.edgewise.conftest import save_tokenizer, tiny

    folder = FOLDER / f"{name}{seed}"
    with _quiet():
        tiny(name, seed=seed).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@cache
def pairs() -> Path:
    """Write prompt pairs."""
    from tests.edgewise.conftest import id_rows

    path = FOLDER / "pairs.jsonl"
    rows = [row | {"group": "a", "answer_position": -1} for row in id_rows(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@cache
def circuit(name: str, seed: int = 0) -> Path:
    """Discover a circuit, with its scores."""
    path = FOLDER / f"{name}.json"
    return made(
        path, "discover", "--model", model(seed=seed), "--task", pairs(), "--method", "eap",
        "--top", 12, "--scores",
    )  # fmt: skip


def circuits() -> Kind:
    """A circuit's file: read, written back, drawn, compared, measured."""
    path, other = circuit("circuit"), circuit("other", seed=1)
    out = FOLDER / "out"
    return Kind(
        path,
        _json,
        (
            partial(attempt, partial(_again, "circuit", path)),
            partial(command, "draw", path, "-o", f"{out}.dot"),
            partial(command, "draw", path, "-o", f"{out}.html"),
            partial(command, "draw", path, "--as", "heat-map", "-o", f"{out}.svg"),
            partial(command, "draw", path, other, "--as", "overlap", "-o", f"{out}.svg"),
            partial(command, "diff", path, other),
            partial(command, "diff", other, path, "-o", f"{out}.json", "--json"),
            partial(command, "evaluate", path),
            partial(command, "roles", path, "--sequences", 1),
        ),
    )


def _again(kind: str, path: Path) -> None:
    """Read a file and write it back."""
    from edgewise.graphs import files

    read, write = getattr(files, f"read_{kind}"), getattr(files, f"write_{kind}")
    write(FOLDER / "again.json", read(path))


def scores() -> Kind:
    """A sidecar of scores."""
    from edgewise.graphs.files import read_scores

    path = circuit("circuit")
    side = path.with_name("circuit.scores.safetensors")
    return Kind(
        side,
        mutated_safetensors,
        (
            partial(attempt, partial(read_scores, side)),
            partial(command, "draw", side, "--as", "heat-map", "-o", FOLDER / "out.svg"),
            partial(command, "evaluate", path, "--curve"),
            partial(
                command, "discover", "--model", model(), "--task", pairs(), "--method", "refine",
                "--from", side, "-o", FOLDER / "refined.json",
            ),
        ),
    )  # fmt: skip


def diffs() -> Kind:
    """A diff with every further block it can have."""
    path = FOLDER / "diff.json"
    made(
        path, "diff", circuit("circuit"), circuit("other", seed=1), "--noise-floor", 3, "--cross",
        "--roles",
    )  # fmt: skip
    return Kind(
        path,
        _json,
        (
            partial(attempt, partial(_again, "diff", path)),
            partial(attempt, partial(_details, path)),
            partial(command, "draw", path, "-o", FOLDER / "out.html"),
            partial(command, "draw", path, "-o", FOLDER / "out.dot"),
            partial(command, "draw", path, "--as", "heat-map", "-o", FOLDER / "out.svg"),
        ),
    )


def _details(path: Path) -> None:
    """Ask a diff for what its further blocks say."""
    from edgewise.graphs.files import read_diff

    found = read_diff(path)
    found.scores, found.changes, found.diff.summary()


def timelines() -> Kind:
    """A timeline of two checkpoints."""
    path = FOLDER / "timeline.json"
    made(
        path, "timeline", model(), model(seed=1), "--labels", "1,2", "--task", pairs(), "--method",
        "eap", "--top", 8, "--no-cache",
    )  # fmt: skip
    return Kind(
        path,
        _json,
        (
            partial(attempt, partial(_again, "timeline", path)),
            partial(command, "draw", path, "-o", FOLDER / "out.svg"),
            partial(command, "draw", path, "-o", FOLDER / "out.html"),
        ),
    )


def roles() -> Kind:
    """What heads do."""
    path, one = FOLDER / "roles.json", circuit("circuit")
    made(path, "roles", one, circuit("other", seed=1), "--sequences", 1)
    return Kind(
        path,
        _json,
        (
            partial(attempt, partial(_again, "roles", path)),
            partial(command, "draw", one, "--roles", path, "-o", FOLDER / "out.svg"),
        ),
    )


def transplants() -> Kind:
    """What parts carry."""
    path, asked = FOLDER / "transplant.json", (model(), model(seed=1), "--task", pairs())
    made(path, "transplant", *asked, "--nodes", "a0.h1")
    chosen = json.loads(path.read_text())
    made(path, "transplant", *asked, "--greedy", 2)
    path.write_text(json.dumps({**json.loads(path.read_text()), **chosen}))
    return Kind(path, _json, (partial(attempt, partial(_again, "transplant", path)),))


def _exchanged(suffix: str, mutate: Callable[[bytes, random.Random], bytes]) -> Kind:
    from edgewise.graphs.circuit import Circuit
    from edgewise.graphs.files.exchange import read_eap_ig, write_eap_ig
    from edgewise.graphs.graph import ComputationGraph

    path = FOLDER / f"graph.{suffix}"
    write_eap_ig(path, Circuit.full(ComputationGraph(2, 2)), d_model=8)
    if suffix == "json":
        document = json.loads(path.read_text())
        for name, node in document["nodes"].items():
            if name != "logits":
                node |= {"score": 0.5, "neurons": [1.0] * 8, "neurons_scores": [0.5] * 8}
        path.write_text(json.dumps(document))
    reads = (partial(read_eap_ig, path), partial(_foreign, path))
    return Kind(path, mutate, tuple(partial(attempt, read) for read in reads))


def _foreign(path: Path) -> None:
    """Read a circuit of another tool as commands do."""
    from edgewise.graphs.files.exchange import read_foreign
    from edgewise.graphs.graph import ComputationGraph

    found = read_foreign(path)
    assert str(found)
    found.on(ComputationGraph(2, 2))


def _tensors(content: bytes, draw: random.Random) -> bytes:
    """Change what an EAP-IG graph in torch's form says, or its bytes."""
    import torch

    if draw.random() < 0.4:
        return mutated_bytes(content, draw)
    document: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    more = ["neurons_in_graph", "neurons_scores", "nodes_scores", "neurons"]
    key = draw.choice([*document, *more])
    document[key] = draw.choice(
        (
            None, 3, "x", [], {}, torch.zeros(1).expand(10**5, 10**5), torch.zeros(7, 15),
            torch.zeros(7, 15, dtype=torch.complex64), torch.zeros(7, 15, device="meta"),
            torch.zeros(7, 15).to_sparse(), torch.full((7, 15), float("inf")), torch.ones(15, 7).T,
            torch.zeros(7, 15, dtype=torch.float64, requires_grad=True), torch.zeros(0, 10**12),
            torch.zeros(7), torch.zeros(7, 8), torch.full((7, 15), 0.5),
            {**document["cfg"], draw.choice(list(document["cfg"])): draw.choice(
                (None, "2", 0, -1, 2.0, True, 10**3, 10**6, 10**12, 10**400, [1], 3))},
        )
    )  # fmt: skip
    written = io.BytesIO()
    torch.save(document, written, _use_new_zipfile_serialization=draw.random() < 0.8)
    return written.getvalue()


def _edge_list(peer: str) -> Kind:
    from edgewise.graphs.files import exchange
    from edgewise.graphs.graph import ComputationGraph

    path = FOLDER / f"{peer}.json"
    acdc = [
        [["blocks.1.hook_resid_post", [None], "blocks.1.hook_mlp_out", [None]], 0.5],
        [["blocks.1.hook_v_input", [None, None, 1], "blocks.0.attn.hook_result", [None, None, 0]]],
        "blocks.0.attn.hook_result[:, :, 1] -> blocks.0.hook_mlp_in[:]",
        "blocks.1.hook_q_input[:, :, 1] -> blocks.1.attn.hook_q[:, :, 1]",
    ]
    pruned = [["a0.h1", "a1.h0.q"], ["m1", "resid_post"], ["embeds", "m0"], ["a0.h1.q", "a0.h1"]]
    path.write_text(json.dumps(acdc if peer == "acdc" else pruned))
    read = getattr(exchange, f"read_{peer}")
    reads = (partial(read, path, ComputationGraph(2, 2)), partial(_foreign, path))
    return Kind(path, _json, tuple(partial(attempt, read) for read in reads))


def prompts() -> Kind:
    """Prompt pairs: shown as they are read, and searched with."""
    from edgewise.patching.prompts.pair_files import read_pairs

    path = pairs()
    asked = ("--model", model(), "--task", path, "--method", "eap", "--top", 3)
    return Kind(
        path,
        mutated_lines,
        (
            partial(attempt, partial(read_pairs, path)),
            partial(command, "discover", *asked, "-o", FOLDER / "found.json"),
        ),
    )


def texts() -> Kind:
    """Prompt pairs as text, with a tokenizer."""
    from transformers import AutoTokenizer

    from edgewise.patching.prompts.pair_files import read_pairs

    tokenizer = AutoTokenizer.from_pretrained(model())
    path = FOLDER / "texts.jsonl"
    row = {"clean": "a b c", "corrupted": "a d c", "answers": ["e"], "distractors": ["f"]}
    path.write_text((json.dumps(row) + "\n") * 3)
    return Kind(path, mutated_lines, (partial(attempt, partial(read_pairs, path, tokenizer)),))


_SHAPED: dict[str, tuple[str, str]] = {
    "table": (
        ".csv",
        "clean,corrupted,correct_idx,wrong_answers,note\n"
        'a b c,a d c,5,[6],"x, ""y"""\nb c,c c,[4],"[\'e\', \'f\']",\n',
    ),
    "years": (".tsv", "clean\tcorrupted_hard\tlabel\na 1352 13\tb 1301 13\t52\n" * 2),
    "document": (
        ".json",
        json.dumps({"word_idxs": {"end": 2, "x": 1}, "prompts": [
            {"clean": "a b c", "corrupt": "a d c", "answers": ["e"], "wrong_answers": "f"}] * 2}),
    ),
    "columns": (".json", json.dumps({"clean": ["a b", "c"], "corrupt": ["b b", "d"],
                                     "answer": ["e", "f"]})),
    "relation": (
        ".json",
        json.dumps({"name": "n", "prompt_templates": ["{} a", "b {}"],
                    "samples": [{"subject": s, "object": o} for s, o in ("ce", "df", "gh")]}),
    ),
    "facts": (
        ".json",
        json.dumps([
            {"subject": s, "attribute": o, "prompt": f"{s} a", "template": "{}", "relation_id": "P"}
            for s, o in ("ce", "df")] + [
            {"requested_rewrite": {"subject": s, "prompt": "{} a", "target_true": {"str": o},
                                   "target_new": {"str": "e"}, "relation_id": "P"}}
            for s, o in ("gh", "ij")]),
    ),
    "masked": (
        ".jsonl",
        "".join(json.dumps({"sentence_masked": f"a {s} b <extra_id_0> .",
                            "masked_content": f"<extra_id_0> {o}", "numops": 1}) + "\n"
                for s, o in ("ce", "df", "gh")),
    ),
    "chat": (
        ".jsonl",
        json.dumps({"messages": [{"role": "user", "content": "a b"}], "answers": ["e"]}) + "\n",
    ),
}  # fmt: skip


def shaped(name: str) -> Kind:
    """A file of prompts in a shape that others use: read, shown, and written as JSON Lines."""
    from transformers import AutoTokenizer

    from edgewise.patching.prompts.pair_files import read_pairs

    ending, content = _SHAPED[name]
    path = FOLDER / f"{name}{ending}"
    path.write_text(content)
    tokenizer = AutoTokenizer.from_pretrained(model())
    asked = ("tasks", path, "--model", model())
    return Kind(
        path,
        {".json": _json, ".jsonl": mutated_lines}.get(ending, _cells),
        (
            partial(attempt, partial(read_pairs, path, tokenizer, vocab_size=31)),
            partial(attempt, partial(read_pairs, path)),
            partial(command, *asked, "-o", FOLDER / "written.jsonl"),
            partial(command, *asked, "--json", "--seed", 3),
        ),
    )


def _cells(content: bytes, draw: random.Random) -> bytes:
    """Change cells of a table, what stands between them, or any bytes."""
    if draw.random() < 0.3:
        return mutated_bytes(content, draw)
    between = b"," if b"," in content.split(b"\n")[0] else b"\t"
    rows = [line.split(between) for line in content.split(b"\n")]
    others = (b"", b'"', b'""', b"[", b"[[[[1", b"(1,", b"['a']", b"9" * 5000, b"-1", b"1e5",
              b"clean", b"\r", b"\0", b"\xff", b"NaN", b"{}", b"[" * 5000 + b"]" * 5000,
              b"a" * 200_000,
              b'"\n\n"', b"corrupted", "é".encode(), b"True", b"['\\d']", b"[{1}]")  # fmt: skip
    for _ in range(draw.choice((1, 1, 2, 4))):
        row = draw.choice(rows)
        row[draw.randrange(len(row))] = draw.choice(others)
        if draw.random() < 0.2:
            row.append(draw.choice(others))
    text = b"\n".join(between.join(row) for row in rows)
    return (
        text.replace(between, draw.choice((b",", b";", b"\t", b"|")))
        if draw.random() < 0.2
        else text
    )


def journals() -> Kind:
    """A search's journal, gone on with."""
    from unittest import mock

    from edgewise.store.journal import JournalFile, journal_path

    path = FOLDER / "searched.json"
    asked = ("discover", "--model", model(), "--task", pairs(), "--method", "acdc", "-o", path)
    with mock.patch.object(JournalFile, "remove", JournalFile.close):
        command(*asked, "--threshold", 0.01)
    journal = journal_path(path)
    return Kind(
        journal, _sealed_lines, (partial(command, *asked, "--threshold", 0.01, "--resume"),)
    )


def _sealed_lines(content: bytes, draw: random.Random) -> bytes:
    """Change lines; in half the cases seal them again, as if edgewise had written them."""
    changed = mutated_lines(content, draw)
    if draw.random() < 0.5:
        return changed
    last, lines = "", []
    for line in changed.splitlines():
        try:
            document = json.loads(line)
            document.pop("sha256", None)
            text = json.dumps(document, ensure_ascii=False).encode("utf-8", "backslashreplace")
        except (ValueError, AttributeError, TypeError, RecursionError):
            text = line
        last = hashlib.sha256(last.encode() + text).hexdigest()
        lines.append(text[:-1] + f', "sha256": "{last}"}}\n'.encode())
    return b"".join(lines)


def _of_run(name: str) -> Kind:
    """A file of a run's directory, gone on with."""
    spec, out = FOLDER / "run.toml", FOLDER / "run"
    spec.write_text(
        f"""
[[models]]
name = "base"
source = "{model()}"
[task]
file = "{pairs()}"
[discovery]
method = "eap"
top = 5
[evaluation]
curve = true
[drawing]
formats = ["dot"]
""",
        encoding="utf-8",
    )
    command("run", spec, "-o", out)
    mutate = mutated_lines if name.endswith(".jsonl") else _json
    return Kind(out / name, mutate, (partial(command, "run", spec, "-o", out),))


def _kept(name: str) -> Kind:
    """A file of a kept result, which a timeline uses."""
    asked = (
        "timeline", model(), model(seed=1), "--labels", "1,2", "--task", pairs(), "--method",
        "eap", "--top", 8, "--cache", FOLDER / "kept",
    )  # fmt: skip
    command(*asked)
    path = sorted((FOLDER / "kept").rglob(name))[0]
    return Kind(path, _json, (partial(command, *asked),))


def specs() -> Kind:
    """An experiment's declaration, read but not run."""
    from edgewise.experiment.document import read_spec

    path = FOLDER / "spec.toml"
    path.write_text(
        f"""
[experiment]
name = "x"
description = "y"
[[models]]
name = "base"
source = "{model()}"
[[models]]
source = "{model(seed=1)}"
[task]
file = "{pairs()}"
examples = 24
bos = false
[graph]
grouped_kv = false
[discovery]
method = "eap-ig"
metric = "logit_diff"
top = 5
steps = 3
[evaluation]
metrics = ["kl", "logit(answer) - logit(distractor)"]
curve = true
[comparison]
noise_floor = 3
level = 0.05
cross = true
[drawing]
formats = ["svg", "html"]
top = 20
layout = "auto"
[compute]
dtype = "float32"
batch_size = 4
""",
        encoding="utf-8",
    )
    return Kind(path, _toml, (partial(attempt, partial(read_spec, path)),))


def _toml(content: bytes, draw: random.Random) -> bytes:
    """Change a value, a key or a line of TOML."""
    lines = content.decode().splitlines()
    at = draw.randrange(1, len(lines))
    how = draw.randrange(8)
    key, equals, _ = lines[at].partition(" = ")
    values = (
        "1", "-1", "0", "1.5", "nan", "inf", "-inf", "true", '""', '"x"', "[]", "[[]]", '["kl"]',
        "{}", "{a = 1}", "9" * 30, "9" * 400, "9" * 5000, "1e400", "1979-05-27", "07:32:00",
        '"\\n\\u001B"', '"' + "a" * 9999 + '"', "[" * 900 + "]" * 900, "[" * 90000, "{a=" * 5000,
        "0x" + "f" * 9000, '"../.."', '"/dev/zero"', '"a\\u0000b"', "[1, 2]", '["x", 1]', "'''",
    )  # fmt: skip
    if how < 5 and equals:
        lines[at] = f"{key} = {draw.choice(values)}"
    elif how == 5:
        del lines[at]
    elif how == 6:
        lines.insert(draw.randrange(len(lines)), lines[at])
    elif how == 7 and equals:
        lines[at] = lines[at].replace(key, draw.choice((key + "s", "a.b.c", '""', '"\\n"', "name")))
    else:
        return mutated_bytes(content, draw)
    return "\n".join(lines).encode()


def _of_model(name: str, folder: Path, mutate: Callable[[bytes, random.Random], bytes]) -> Kind:
    """A file of a model's directory, lifted."""
    return Kind(folder / name, mutate, (partial(command, "lift", folder),))


def _words(name: str) -> Kind:
    """A file of a tokenizer."""
    uses = (partial(command, "tasks", "ioi", "--model", model("gpt2", 7)),)
    return Kind(model("gpt2", 7) / name, _json, uses)


@cache
def _adapter() -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = FOLDER / "adapter"
    with _quiet():
        base = AutoModelForCausalLM.from_pretrained(model("llama", 5))
        wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        wrapped.save_pretrained(folder)
    return folder


@cache
def _gguf() -> Path:
    """Write a tiny llama as GGUF."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM

    with _quiet():
        weights = AutoModelForCausalLM.from_pretrained(model("llama", 6), dtype=torch.float32)
    (FOLDER / "gguf").mkdir()
    path = FOLDER / "gguf" / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(24)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(31)
    writer.add_array("llama.extra", [0, 0])
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "model.layers": "blk", "model.norm": "output_norm",
        "model.embed_tokens": "token_embd", "lm_head": "output",
    }  # fmt: skip
    for name, tensor in weights.state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_bytes(content: bytes, draw: random.Random) -> bytes:
    """Overwrite one of a GGUF file's numbers, most of which are of 4 or 8 bytes."""
    if draw.random() < 0.3:
        return mutated_bytes(content, draw)
    at = draw.randrange(4, 1200)
    numbers = (0, 1, 3, 8, 9, 31, 10**3, 10**6, 10**9, 2**32 - 1, 2**40, 2**60, 2**64 - 1)
    size = draw.choice((4, 4, 8))
    number = draw.choice(numbers) % 2 ** (8 * size)
    return content[:at] + number.to_bytes(size, "little") + content[at + size :]


KINDS: dict[str, Callable[[], Kind]] = {
    "circuit": circuits,
    "scores": scores,
    "diff": diffs,
    "timeline": timelines,
    "roles": roles,
    "transplant": transplants,
    "eap-json": partial(_exchanged, "json", _json),
    "eap-pt": partial(_exchanged, "pt", _tensors),
    "acdc": partial(_edge_list, "acdc"),
    "edge-pruning": partial(_edge_list, "edge_pruning"),
    "prompts": prompts,
    "texts": texts,
    **{f"prompts-{name}": partial(shaped, name) for name in _SHAPED},
    "spec": specs,
    "journal": journals,
    "run-ledger": partial(_of_run, "run.json"),
    "run-task": partial(_of_run, "task.json"),
    "run-evaluation": partial(_of_run, "evaluation.json"),
    "run-prompts": partial(_of_run, "prompts.jsonl"),
    "kept-ledger": partial(_kept, "run.json"),
    "kept-measures": partial(_kept, "measured.json"),
    "config-gpt2": lambda: _of_model("config.json", model("gpt2", 5), _json),
    "config-llama": lambda: _of_model("config.json", model("llama", 4), _json),
    "weights": lambda: _of_model("model.safetensors", model("gpt2", 6), mutated_safetensors),
    "adapter": lambda: _of_model("adapter_config.json", _adapter(), _json),
    "adapter-weights": lambda: _of_model(
        "adapter_model.safetensors", _adapter(), mutated_safetensors
    ),
    "tokenizer": lambda: _words("tokenizer.json"),
    "tokenizer-config": lambda: _words("tokenizer_config.json"),
    "gguf": lambda: Kind(_gguf(), _gguf_bytes, (partial(command, "lift", _gguf()),)),
}


def main() -> None:
    """Run the kinds that are asked for."""
    os.environ["EDGEWISE_TRACEBACK"] = "1"
    os.environ["EDGEWISE_CACHE"] = str(FOLDER / "cache")
    kinds, count, seed = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
    only = int(sys.argv[5]) if len(sys.argv) > 5 else None
    for kind in list(KINDS) if kinds == ["all"] else kinds:
        for found in run(kind, count, seed, only):
            print(json.dumps(found), flush=True)
        print(json.dumps({"done": kind, "cases": count}), flush=True)


if __name__ == "__main__":
    main()
