"""GPT-J and CodeGen: one LayerNorm before a parallel block, interleaved partial rotary positions.

CodeGen packs the queries, values and keys of a quarter of the heads together.
"""

from __future__ import annotations

from typing import Any

import torch

from ..lifted import Attention, LiftedModel, Rotary
from ..lifting import by_head, family
from ._parts import assemble, describe_blocks, layer_norm, separate


@family(
    "gpt-j",
    model_types=["gptj", "codegen"],
    handled="""
        vocab_size n_positions n_embd n_layer n_head rotary_dim n_inner activation_function
        layer_norm_epsilon tie_word_embeddings
    """,
    ignored="""
        attn_pdrop embd_pdrop resid_pdrop summary_activation summary_first_dropout
        summary_proj_to_labels summary_type summary_use_proj n_ctx
    """,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `GPTJForCausalLM` or a `CodeGenForCausalLM`."""
    config, body = model.config, model.transformer
    size = config.rotary_dim or config.n_embd
    steps = torch.arange(0, size, 2, device=body.wte.weight.device) / size
    frequencies = 1.0 / (10000**steps)  # the base is fixed in the model's code

    def attention(block: Any, _: int) -> Attention:
        stored = block.attn.embed_positions.detach()
        table = Rotary(frequencies, interleaved=True, stored=stored)
        module, own = block.attn, {"scale": block.attn.head_dim**-0.5, "rotary": table}
        if config.model_type == "codegen":
            return _in_quarters(module, config.n_head, own)
        return separate(module, module.out_proj, config.n_head, **own)

    names, activation = ("ln_1", "ln_1"), config.activation_function
    blocks = describe_blocks(body.h, layer_norm, attention, activation, names)
    own = {"max_positions": config.n_positions, "parallel": True}
    of = blocks[0].by_head.size
    words = f"rotary, base 10000, first {size} of {of} features, interleaved"
    return assemble("gpt-j", model, body.wte, blocks, layer_norm(body.ln_f), words, **own)


def _in_quarters(module: Any, heads: int, rest: dict[str, Any]) -> Attention:
    """Describe attention whose projection holds queries, values and keys of 4 equal parts."""
    packed = module.qkv_proj.weight.detach().unflatten(0, (4, 3, heads // 4, -1))
    q, v, k = (packed[:, part] for part in range(3))  # [4, H/4, K, D]
    wo = by_head(module.out_proj.weight.t(), heads)
    return Attention(wq=q, wk=k, wv=v, wo=wo, bq=None, bk=None, bv=None, bo=None, **rest)
