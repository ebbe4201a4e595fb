"""Types that are not lifted are refused with the reason."""

from __future__ import annotations

import pytest
from transformers import (
    BertConfig,
    BertLMHeadModel,
    MBartConfig,
    MBartForCausalLM,
    MiniMaxConfig,
    MiniMaxForCausalLM,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from edgewise.graphs.errors import UnsupportedModel
from edgewise.graphs.lift.families._refused import _REASONS, refusals
from edgewise.graphs.lift.lifting import describe, families

SIZES = {"vocab_size": 31, "pad_token_id": 0}
BERT = {
    **SIZES, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 24, "is_decoder": True,
}  # fmt: skip
MBART = {**SIZES, "d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2}
MINIMAX = {
    **SIZES, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "intermediate_size": 8, "num_local_experts": 2,
}  # fmt: skip
MODELS = [
    (
        BertLMHeadModel,
        BertConfig(**BERT),
        "'bert' cannot be lifted: LayerNorm stands on its stream",
    ),
    (
        MiniMaxForCausalLM,
        MiniMaxConfig(**MINIMAX),
        "'minimax' cannot be lifted: norms stand on its stream, which is then no sum",
    ),
    (MBartForCausalLM, MBartConfig(**MBART), "'mbart' cannot be lifted: it is the decoder of an"),
]


@pytest.mark.parametrize(("kind", "config", "words"), MODELS)
def test_the_reason_is_said(kind: type, config: object, words: str) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        describe(kind(config).eval())


def test_every_type_has_one_reason_and_is_a_type() -> None:
    named = [kind for kinds in _REASONS.values() for kind in kinds.split()]
    assert len(named) == len(set(named))
    assert set(named) <= set(CONFIG_MAPPING_NAMES)
    assert not set(refusals(families())) & set(families())
