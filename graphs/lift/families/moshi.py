"""Moshi's text model: RMSNorm, rotary, gate and up packed in one projection."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..lifted import MLP, Attention, LiftedModel, Linear, Norm
from ..lifting import UNREAD, family, require_activation
from ._parts import assemble, describe_blocks, linear, rotary, separate


@family(
    "moshi",
    model_types=["moshi"],
    handled="""
        vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act
        head_dim ffn_dim rms_norm_eps rope_parameters
    """,
    ignored=f"""
        {UNREAD} sliding_window num_codebooks audio_vocab_size audio_encoder_config
        depth_decoder_config tie_word_embeddings
    """,
)
def describe(model: Any) -> LiftedModel:
    """Describe a `MoshiForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.layers[0].self_attn.rotary_emb)
    heads, groups = config.num_attention_heads, config.num_key_value_heads

    def attention(block: Any, _: int) -> Attention:
        module = block.self_attn
        parts = SimpleNamespace(**{f"{x}_proj": getattr(module, f"{x}_proj").linear for x in "qkv"})
        own = {"scale": module.scaling, "rotary": table}
        return separate(parts, module.o_proj.linear, heads, groups, **own)

    def mlp(block: Any) -> MLP:
        gate, up = map(Linear, block.mlp.fc1.weight.detach().chunk(2))
        return MLP(up, linear(block.mlp.fc2), require_activation(config.hidden_act), gate)

    blocks = describe_blocks(body.layers, _norm, attention, mlp)
    return assemble("moshi", model, body.embed_tokens, blocks, _norm(body.norm), table)


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), None, module.eps, centred=False)
