"""GPT-J: one LayerNorm before a parallel block, interleaved partial rotary, biases in the MLP."""

from __future__ import annotations

from typing import Any

import torch

from ..lifted import Block, LiftedModel, Rotary
from ..lifting import family
from ._parts import assemble, layer_norm, plain, separate


@family(
    "gpt-j",
    model_types=["gptj"],
    handled="""
        vocab_size n_positions n_embd n_layer n_head rotary_dim n_inner activation_function
        layer_norm_epsilon tie_word_embeddings
    """,
    ignored="""
        attn_pdrop embd_pdrop resid_pdrop summary_activation summary_first_dropout
        summary_proj_to_labels summary_type summary_use_proj
    """,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GPTJForCausalLM`."""
    config, body = model.config, model.transformer
    size = config.rotary_dim or config.n_embd
    steps = torch.arange(0, size, 2, device=body.wte.weight.device) / size
    table = Rotary(1.0 / (10000**steps), interleaved=True)  # the base is fixed in the model's code
    blocks = tuple(
        Block(
            attention_norm=layer_norm(block.ln_1),
            attention=separate(
                block.attn,
                block.attn.out_proj,
                config.n_head,
                config.n_head,
                scale=block.attn.head_dim**-0.5,
                rotary=table,
            ),
            mlp_norm=layer_norm(block.ln_1),
            mlp=plain(block.mlp.fc_in, block.mlp.fc_out, config.activation_function),
        )
        for block in body.h
    )
    return assemble(
        "gpt-j",
        model,
        body.wte,
        blocks,
        layer_norm(body.ln_f),
        positions=f"rotary, base 10000, first {size} of {blocks[0].attention.size} features, "
        "interleaved",
        max_positions=config.n_positions,
        parallel=True,
    )
