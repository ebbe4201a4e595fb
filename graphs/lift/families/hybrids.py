"""Hybrids and other recurrent models: what is no attention, or unknown in it, is taken whole.

State spaces, gated delta nets, short convolutions and recurrences are nodes `s{l}`; attention of
Llama's shape is split into heads, with its output gate (Qwen3-Next); in mixtures of a usual shape
(Jamba, Granite 4, LFM2, Nemotron-H) every expert is a sender. Falcon-H1's attention and state
space, which read one norm and are added up, are one node. A layer of RWKV, which mixes tokens
twice, is two layers of the graph.
"""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedModel
from ..lifted import LiftedModel
from ..lifting import family
from ._by_shape import describe_by_shape


@family(
    "hybrid",
    [
        "bamba",
        "falcon_h1",
        "granitemoehybrid",
        "jamba",
        "lfm2",
        "lfm2_moe",
        "lfm3",
        "nemotron_h",
        "recurrent_gemma",
        "rwkv",
        "xlstm",
    ],
    "",
    refuses=["`rescale_every` above 0 (RWKV): its code then divides the weights when it runs"],
    watched=True,
)
def describe(model: Any) -> LiftedModel:
    """Describe a model of one of these types for causal language modelling."""
    if getattr(model.config, "rescale_every", 0):
        raise UnsupportedModel(
            "RWKV's own code divides the model's weights when it first runs; load the model with "
            "`rescale_every=0`, which leaves them as they are and changes no result."
        )
    return describe_by_shape(model, "hybrid")
