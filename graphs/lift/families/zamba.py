"""Zamba 1 and 2: in some layers attention and an MLP that they share, in all a state space.

The shared part reads the embedding beside the stream, and what it gives is added to what the state
space reads, not to the stream; so each layer is one node, and the stream here is the model's with
the embedding beside it: see lift/own/packed.py.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import family
from ..own.observing import name_in
from ..own.packed import Gathered, PackedLayer, Packing, Spread
from ..whole import WholePart
from ._parts import assemble, describe_blocks, rms_norm

HANDLED = "vocab_size hidden_size num_hidden_layers rms_norm_eps tie_word_embeddings"
IGNORED = """
    attention_dropout max_position_embeddings num_logits_to_keep use_mamba_kernels time_step_min
    time_step_max time_step_floor attention_hidden_size attention_head_dim head_dim kv_channels
    num_query_groups hybrid_layer_ids mamba_headdim use_mem_eff_path
"""
"""What weights are initialised by, and what follows from other settings."""

INSIDE = """
    intermediate_size num_attention_heads num_key_value_heads n_mamba_heads hidden_act
    hidden_mamba_act attn_layer_period attn_layer_offset mamba_d_state mamba_d_conv mamba_expand
    mamba_dt_rank use_associative_scan mamba_conv_bias mamba_proj_bias layers_block_type layer_types
    mamba_ngroups use_conv_bias chunk_size add_bias_linear num_mem_blocks adapter_rank
    use_shared_attention_adapter use_mem_rope rope_parameters use_long_context
"""
GIVEN = ("hidden_states", "original_hidden_states")


@family("zamba", ["zamba", "zamba2"], HANDLED, IGNORED, inside=INSIDE)
def describe(model: Any) -> LiftedModel:
    """Describe a Zamba model for causal language modelling."""
    body, width = model.model, model.config.hidden_size
    packing = Packing(1, width, width, 1)
    names = [name_in(model, layer) for layer in body.layers]
    calls = PackedLayer.calls_of(model, names, GIVEN)

    def whole(block: Any, layer: int) -> PackedLayer:
        return PackedLayer(
            (WholePart(names[layer], block),), calls, label=type(block).__name__, packing=packing,
            layer=layer, given=GIVEN,
        )  # fmt: skip

    blocks = describe_blocks(body.layers, rms_norm, whole, lambda _: None, (None, None))
    last = Gathered(packing, (), rms_norm(body.final_layernorm))
    words = "as its layers take them"
    lifted = assemble(
        "zamba", model, body.embed_tokens, blocks, last, words, spread=Spread(packing)
    )
    lifted.variants["stream"] = "with the embedding beside it, which the shared parts read"
    return lifted
