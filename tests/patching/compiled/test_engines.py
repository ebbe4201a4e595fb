"""Which engine computes, and what is said where one cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgewise.discovery.registry import get_method, methods
from edgewise.graphs.errors import EdgewiseError, UnknownName
from edgewise.patching import engines
from edgewise.patching.compiled.losses import FUNCTIONS
from edgewise.patching.metrics.metric import Target
from edgewise.patching.metrics.registry import metrics
from edgewise.patching.run.runner import Runner
from tests.edgewise.conftest import tiny
from tests.engine import tiny_lift, tiny_pairs


def runner(name: str = "gpt2", **settings: object) -> Runner:
    model = tiny_lift(name, dtype=torch.float32)
    return Runner.create(model, tiny_pairs(), **{"engine": "jax", **settings})  # type: ignore[arg-type]


def test_without_jax_one_paragraph_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed", lambda: False)
    with pytest.raises(EdgewiseError, match=r'pip install "edgewise\[jax\]"') as error:
        runner()
    assert "\n" not in str(error.value)
    assert get_method("eap").engine(runner(engine="auto")) == "torch"


def test_an_engine_that_is_none() -> None:
    with pytest.raises(UnknownName, match="unknown engine 'jaxx'; did you mean 'jax'"):
        runner(engine="jaxx")


def test_auto_takes_torch_where_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert get_method("eap-ig").engine(runner(engine="auto")) == "torch"


def test_auto_takes_jax_on_a_card_for_what_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "on_a_card", lambda device: True)
    assert get_method("eap-ig").engine(runner(engine="auto")) == "jax"
    assert get_method("acdc").engine(runner(engine="auto")) == "torch"
    assert get_method("eap").engine(runner("mamba", engine="auto")) == "torch"


def test_methods_that_take_no_gradient_say_so() -> None:
    for name, method in methods().items():
        if "jax" not in method.engines:
            said = f"'{name}' does not run on engine 'jax'; accepted: engine 'torch' or 'auto', or"
            with pytest.raises(EdgewiseError, match=f"{said} a method that does: .*eap-ig"):
                method(runner())


def test_parts_taken_whole_stay_with_torch_in_words() -> None:
    with pytest.raises(EdgewiseError, match=r"its node s0 is taken whole .* or engine 'torch'"):
        get_method("eap")(runner("mamba"))


def margin(logits: torch.Tensor, target: Target) -> torch.Tensor:
    """Answer's logit minus the largest."""
    return logits.gather(1, target.answers[:, :1])[:, 0] - logits.amax(-1)


def test_metrics_that_are_python_functions_stay_with_torch() -> None:
    with pytest.raises(EdgewiseError, match="'margin' is a Python function of torch tensors"):
        get_method("eap")(runner(metric=margin))


def test_every_metric_with_a_gradient_has_a_counterpart() -> None:
    assert set(FUNCTIONS) == {name for name, one in metrics().items() if one.differentiable}


def test_a_file_names_its_engine(tmp_path: Path) -> None:
    from edgewise.experiment.spec import Selection
    from edgewise.session import open_model
    from edgewise.steps.discover import discover

    for engine in ("torch", "jax"):
        session = open_model(tiny("gpt2"), engine=engine)
        found = discover(
            session, tiny_pairs(), method="eap", metric="logit_diff", select=Selection(top=5)
        )
        assert found.file.discovery["engine"]["name"] == engine  # type: ignore[index]
        assert found.file.discovery["engine"]["version"]  # type: ignore[index]
        again = discover(session, tiny_pairs(), method="eap", engine="torch")
        assert again.file.discovery["engine"]["name"] == "torch"  # type: ignore[index]
        assert json.loads(json.dumps(found.file.discovery["engine"]))


def test_jax_is_imported_only_where_it_is_asked_for() -> None:
    """`auto` on a processor never loads it."""
    script = (
        "import sys, torch\n"
        "from tests.engine import tiny_lift, tiny_pairs\n"
        "from edgewise.discovery.registry import get_method\n"
        "from edgewise.patching.run.runner import Runner\n"
        "torch.cuda.is_available = lambda: False\n"
        "get_method('eap')(Runner.create(tiny_lift('gpt2'), tiny_pairs()))\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
