"""Every config attribute that a family handles is tested in at least two settings."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import pytest

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.lifting import describe, families
from tests.configs import ALL

REFUSED: dict[tuple[str, str], Any] = {
    ("bloom", "apply_residual_connection_post_layernorm"): True,
    ("gemma", "use_bidirectional_attention"): True,
    ("gemma2", "use_bidirectional_attention"): True,
    ("gemma3_text", "use_bidirectional_attention"): True,
    ("gpt2", "add_cross_attention"): True,
    ("gpt-sw3", "add_cross_attention"): True,
    ("gpt_bigcode", "add_cross_attention"): {"add_cross_attention": True, "multi_query": False},
    ("xglm", "add_cross_attention"): True,
    ("opt", "_remove_final_layer_norm"): True,
    ("opt", "do_layer_norm_before"): False,
    ("opt", "layer_norm_elementwise_affine"): False,
}
"""Attributes of a model type with one setting that is lifted; the other, given here, is refused."""

EXCUSED = {
    ("bloom", "slow_but_exact"): "its other setting needs pretraining_tp > 1, which is refused",
}
"""Attributes with one setting only, and why."""


ALIASES = {"partial_rotary_factor"}
"""What older versions of transformers have beside `rope_parameters`, which holds it too."""


def settings() -> dict[str, dict[str, set[str]]]:
    """Map model type and attribute to the values that the tiny configurations give it."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for config_class, _, options in ALL.values():
        config: Any = config_class(**copy.deepcopy(options))
        for name, value in config.to_dict().items():
            found[config.model_type][name].add(repr(value))
    return found


FOUND = settings()


def lacking(model_type: str) -> set[str]:
    """List what a type handles in one setting only, of what this transformers' config has."""
    handled, tested = families()[model_type].handled, FOUND[model_type]
    return {name for name in (handled - ALIASES) & set(tested) if len(tested[name]) < 2}


@pytest.mark.parametrize("model_type", families())
def test_every_handled_attribute_is_tested_in_two_settings(model_type: str) -> None:
    assert FOUND[model_type], "no tiny configuration"
    excused = {name for kind, name in (*REFUSED, *EXCUSED) if kind == model_type}
    wrong = sorted(lacking(model_type) ^ excused)
    assert not wrong, f"in one setting only, or excused without need: {', '.join(wrong)}"


@pytest.mark.parametrize(("model_type", "name"), REFUSED)
def test_the_other_setting_is_refused(model_type: str, name: str) -> None:
    config_class, model_class, options = next(
        entry for entry in ALL.values() if entry[0].model_type == model_type
    )
    other = REFUSED[model_type, name]
    changes = other if isinstance(other, dict) else {name: other}
    model = model_class(config_class(**{**copy.deepcopy(options), **changes})).eval()
    with pytest.raises(UnsupportedModel):
        describe(model)
