"""JetMoE: experts in attention, which is taken whole, and in the MLP, where each is a sender.

What the experts of an MLP write together has a bias: a shared expert writes it, whatever it reads.
"""

from __future__ import annotations

from typing import Any

from ..experts import Experts, Routing, SharedExpert
from ..lifted import MLP, LiftedModel, Linear
from ..lifting import UNREAD, family, require_activation
from ..whole import Whole
from ._parts import assemble, describe_blocks, rms_norm, rotary


@family(
    "jetmoe",
    model_types=["jetmoe"],
    handled="""
        vocab_size hidden_size intermediate_size num_hidden_layers rms_norm_eps rope_parameters
        tie_word_embeddings activation_function num_local_experts num_experts_per_tok
    """,
    ignored=f"{UNREAD} output_router_logits aux_loss_coef",
    inside="num_attention_heads num_key_value_heads kv_channels",
)
def describe(model: Any) -> LiftedModel:
    """Describe a `JetMoeForCausalLM`."""
    config, body = model.config, model.model

    def experts(block: Any) -> Experts:
        module = block.mlp
        gate, up = module.input_linear.weight.detach().chunk(2, 1)
        router = module.router.layer.weight.detach()
        nothing = Linear(router[:0])  # no features inside: what it writes is its bias
        constant = MLP(nothing, Linear(router.t()[:, :0], module.bias.detach()), "relu")
        return Experts(
            router=router, gate=gate, up=up, down=module.output_linear.weight.detach(),
            chosen=config.num_experts_per_tok, renormalise=False, routing=Routing(score="chosen"),
            activation=require_activation(config.activation_function),
            shared=SharedExpert(constant),
        )  # fmt: skip

    blocks = describe_blocks(
        body.layers, rms_norm, lambda block, _: Whole.of(model, block.self_attention), experts
    )
    last, table = rms_norm(body.norm), rotary(config, body.rotary_emb)
    return assemble("jetmoe", model, body.embed_tokens, blocks, last, table)
