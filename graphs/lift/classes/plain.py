"""A transformer without norms, as compilers of programs make them, that loads as any other model.

    x = tokens[t] + positions[i];  per layer  x += attention(x),  x += down · relu(up · x)
    logits = unembed · x

Attention weights are softmax(q·k / √d_head), causal or in both directions; there are no biases.
There may be fewer or more logits than tokens. A saved directory holds `config.json` of the type
`edgewise-plain` and `model.safetensors`, and every command takes it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ...calls.typed import typed

if TYPE_CHECKING:
    from transformers import PretrainedConfig

MODEL_TYPE = "edgewise-plain"
"""The type that config.json names."""


@typed
def classes() -> tuple[type[PretrainedConfig], Any]:
    """Return the classes of configuration and model, known to transformers from then on."""
    return _made()


@cache
def _made() -> tuple[type[PretrainedConfig], Any]:
    """Make the classes, once."""
    import torch
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class PlainConfig(PretrainedConfig):  # type: ignore[misc]
        """The sizes of a plain model."""

        model_type = MODEL_TYPE

        def __init__(
            self,
            vocab_size: int = 8,
            outputs: int | None = None,
            hidden_size: int = 8,
            num_hidden_layers: int = 1,
            num_attention_heads: int = 1,
            head_dim: int = 4,
            intermediate_size: int = 8,
            max_position_embeddings: int = 8,
            causal: bool = True,
            **rest: Any,
        ) -> None:
            self.vocab_size, self.outputs = vocab_size, vocab_size if outputs is None else outputs
            self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
            self.num_attention_heads, self.head_dim = num_attention_heads, head_dim
            self.intermediate_size = intermediate_size
            self.max_position_embeddings, self.causal = max_position_embeddings, causal
            super().__init__(**{"tie_word_embeddings": False, **rest})

    class PlainLayer(nn.Module):
        """One layer."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
            self.heads, self.causal = config.num_attention_heads, config.causal
            self.query = nn.Linear(width, inner, bias=False)
            self.key = nn.Linear(width, inner, bias=False)
            self.value = nn.Linear(width, inner, bias=False)
            self.output = nn.Linear(inner, width, bias=False)
            self.up = nn.Linear(width, config.intermediate_size, bias=False)
            self.down = nn.Linear(config.intermediate_size, width, bias=False)

        def forward(self, x: Tensor, there: Tensor) -> Tensor:
            q, k, v = (
                part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for part in (self.query, self.key, self.value)
            )
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            seen = there[:, None, None, :]
            if self.causal:
                seen = seen & torch.ones_like(scores[0, 0], dtype=torch.bool).tril()
            z = scores.masked_fill(~seen, torch.finfo(x.dtype).min).softmax(-1) @ v
            x = x + self.output(z.transpose(1, 2).flatten(-2))
            out: Tensor = x + self.down(self.up(x).relu())
            return out

    class PlainForCausalLM(PreTrainedModel):  # type: ignore[misc]
        """The model."""

        config_class = PlainConfig
        base_model_prefix = ""
        _tied_weights_keys = None

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
            self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
            self.layers = nn.ModuleList(PlainLayer(config) for _ in range(config.num_hidden_layers))
            self.unembed = nn.Linear(config.hidden_size, config.outputs, bias=False)
            self.post_init()

        def get_input_embeddings(self) -> Any:
            return self.tokens

        def get_output_embeddings(self) -> Any:
            return self.unembed

        def forward(
            self,
            input_ids: Tensor | None = None,
            attention_mask: Tensor | None = None,
            position_ids: Tensor | None = None,
            inputs_embeds: Tensor | None = None,
            **_: Any,
        ) -> CausalLMOutput:
            x = self.tokens(input_ids) if inputs_embeds is None else inputs_embeds
            if position_ids is None:
                position_ids = torch.arange(x.shape[1], device=x.device)[None]
            there = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
            if attention_mask is not None:
                there = attention_mask.bool()
            x = x + self.positions(position_ids)
            for layer in self.layers:
                x = layer(x, there)
            return CausalLMOutput(logits=self.unembed(x))

    for made in (PlainConfig, PlainForCausalLM):
        made.__module__, made.__qualname__ = __name__, made.__name__
    AutoConfig.register(MODEL_TYPE, PlainConfig)
    AutoModelForCausalLM.register(PlainConfig, PlainForCausalLM)
    return PlainConfig, PlainForCausalLM
