"""EXAONE 4: norms only behind attention, MLP, queries and keys; rotary only beside windows.

Where the model has no windows, all layers have rotary positions.
"""

from __future__ import annotations

from typing import Any

from ..lifted import LiftedModel
from ..lifting import UNREAD, USUAL, family
from ._parts import assemble, normed_behind, rms_norm, rotary


@family(
    "exaone4",
    model_types=["exaone4"],
    handled=f"{USUAL} head_dim rms_norm_eps sliding_window layer_types",
    ignored=f"{UNREAD} sliding_window_pattern",
)
def describe(model: Any) -> LiftedModel:
    """Describe an `Exaone4ForCausalLM`."""
    config, body = model.config, model.model
    table = rotary(config, body.rotary_emb)
    turns = [
        config.sliding_window is None or kind == "sliding_attention" for kind in config.layer_types
    ]
    blocks = normed_behind(model, [table if turn else None for turn in turns])
    return assemble("exaone4", model, body.embed_tokens, blocks, rms_norm(body.norm), table)
