"""Mamba 1 and 2 and Falcon Mamba: in each layer a norm and a state space, which is taken whole.

There is no MLP. The models keep the stream in float32 where `residual_in_fp32` says so; here it has
the weights' type, and the certificate says what rounding that adds in 16 bits.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ..whole import Whole
from ._parts import assemble, describe_blocks, rms_norm

HANDLED = """
    vocab_size hidden_size num_hidden_layers layer_norm_epsilon tie_word_embeddings
"""
IGNORED = """
    residual_in_fp32 rescale_prenorm_residual time_step_scale time_step_min time_step_max
    time_step_init_scheme time_step_floor
"""
"""But the first, what weights are initialised by."""

INSIDE = """
    state_size conv_kernel expand use_bias use_conv_bias hidden_act time_step_rank intermediate_size
"""


@family(
    "mamba",
    ["mamba", "falcon_mamba"],
    HANDLED,
    IGNORED,
    inside=f"{INSIDE} use_mambapy use_falcon_mambapy mixer_rms_eps use_associative_scan",
)
@family(
    "mamba",
    ["mamba2"],
    HANDLED,
    IGNORED,
    inside=f"{INSIDE} num_heads head_dim n_groups chunk_size rms_norm time_step_limit",
)
def describe(model: Any) -> LiftedModel:
    """Describe a Mamba model for causal language modelling."""
    body = model.backbone
    blocks = describe_blocks(
        body.layers,
        rms_norm,
        lambda block, _: Whole.of(model, block.mixer),
        lambda _: None,
        ("norm", None),
    )
    last = rms_norm(body.norm_f)
    return assemble("mamba", model, body.embeddings, blocks, last, "none: its layers are recurrent")
