"""Plain transformers of this project: no norms, no biases, one or both directions, ReLU.

Their class is none of transformers', so they are no family among those that it decides about.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..classes.plain import MODEL_TYPE
from ..lifted import LiftedModel
from ..lifting import by_head, family
from ..plain import plain_block, plain_model


@family(
    "plain",
    model_types=[MODEL_TYPE],
    handled="""
        vocab_size outputs hidden_size num_hidden_layers num_attention_heads head_dim
        intermediate_size max_position_embeddings causal tie_word_embeddings
    """,
    own_class=True,
)
def describe(model: Any) -> LiftedModel:
    """Describe a model of `graphs.lift.classes.plain`."""
    heads = model.config.num_attention_heads
    blocks = [
        plain_block(
            wq=by_head(layer.query.weight, heads),
            wk=by_head(layer.key.weight, heads),
            wv=by_head(layer.value.weight, heads),
            wo=by_head(layer.output.weight.T, heads),
            up=layer.up.weight.detach(),
            down=layer.down.weight.detach(),
        )
        for layer in model.layers
    ]
    found = plain_model(
        tokens=model.tokens.weight, positions=model.positions.weight, blocks=blocks,
        unembed=model.unembed.weight, causal=model.config.causal,
    )  # fmt: skip
    return replace(found, variants={**found.variants, "norms": "none"})
