"""GPT-J: one LayerNorm before a parallel block, interleaved partial rotary, biases in the MLP."""

from __future__ import annotations

from typing import Any

import torch

from ..lifted import Attention, LiftedModel, Rotary
from ..lifting import family
from ._parts import assemble, describe_blocks, layer_norm, separate


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

    def attention(block: Any, _: int) -> Attention:
        module, own = block.attn, {"scale": block.attn.head_dim**-0.5, "rotary": table}
        return separate(module, module.out_proj, config.n_head, **own)

    names, activation = ("ln_1", "ln_1"), config.activation_function
    blocks = describe_blocks(body.h, layer_norm, attention, activation, names)
    own = {"max_positions": config.n_positions, "parallel": True}
    of = blocks[0].attention.size
    words = f"rotary, base 10000, first {size} of {of} features, interleaved"
    return assemble("gpt-j", model, body.wte, blocks, layer_norm(body.ln_f), words, **own)
