"""The models that circuits are planted in: all weights 0, and where each part of them stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..graphs.names import Port
from .shapes import ARCHITECTURES, OWN, PlantedShape

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class ZeroedModel:
    """A model whose weights are all 0; those below tell where each of its parts stands."""

    shape: PlantedShape
    model: Any = field(init=False)

    @property
    def head_width(self) -> int:
        """Return how many numbers a head computes with."""
        return self.shape.d_model // self.shape.heads


@dataclass
class Gpt2(ZeroedModel):
    """A GPT-2 whose weights are all 0, and where each of its parts stands."""

    constants: tuple[float, ...] = (1.0, -1.0)

    def __post_init__(self) -> None:
        from transformers import GPT2Config, GPT2LMHeadModel

        shape = self.shape
        self.model = _zeroed(
            GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=shape.vocabulary, n_positions=shape.positions, n_embd=shape.d_model,
                    n_layer=shape.layers, n_head=shape.heads, n_inner=4 * OWN,
                    tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
                )
            )
        )  # fmt: skip

    @property
    def embedding(self) -> Tensor:
        """Return the token embedding's weights."""
        found: Tensor = self.model.transformer.wte.weight
        return found

    def norms(self) -> list[Tensor]:
        """Return every norm's weights."""
        body = self.model.transformer
        inner = [norm.weight for block in body.h for norm in (block.ln_1, block.ln_2)]
        return [*inner, body.ln_f.weight]

    def reading(self, port: Port) -> list[Tensor]:
        """Return the weights by which a port reads, each [out, d_model], as views."""
        node = port.node
        if node.layer is None:
            return [self.model.lm_head.weight]
        block = self.model.transformer.h[node.layer]
        if port.letter is None:
            return [block.mlp.c_fc.weight.T]
        place = "qkv".index(port.letter) * self.shape.heads + int(node.index or 0)
        width = self.head_width
        return [block.attn.c_attn.weight.T[place * width : (place + 1) * width]]

    def writing(self, layer: int) -> tuple[tuple[nn.Module, Tensor], tuple[nn.Module, Tensor]]:
        """Return the projections that write, of heads and MLP: module, weight [d_model, in]."""
        block = self.model.transformer.h[layer]
        heads, mlp = block.attn.c_proj, block.mlp.c_proj
        return (heads, heads.weight.T), (mlp, mlp.weight.T)


@dataclass
class Llama(ZeroedModel):
    """A Llama whose weights are all 0, and where each of its parts stands."""

    constants: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = self.shape
        self.model = _zeroed(
            LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=shape.vocabulary, max_position_embeddings=shape.positions,
                    hidden_size=shape.d_model, num_hidden_layers=shape.layers,
                    num_attention_heads=shape.heads,
                    num_key_value_heads=shape.kv_heads or shape.heads,
                    intermediate_size=4 * OWN, tie_word_embeddings=False,
                )
            )
        )  # fmt: skip

    @property
    def embedding(self) -> Tensor:
        """Return the token embedding's weights."""
        found: Tensor = self.model.model.embed_tokens.weight
        return found

    def norms(self) -> list[Tensor]:
        """Return every norm's weights."""
        body = self.model.model
        inner = [
            norm.weight
            for block in body.layers
            for norm in (block.input_layernorm, block.post_attention_layernorm)
        ]
        return [*inner, body.norm.weight]

    def reading(self, port: Port) -> list[Tensor]:
        """Return the weights by which a port reads, each [out, d_model], as views."""
        node = port.node
        if node.layer is None:
            return [self.model.lm_head.weight]
        block = self.model.model.layers[node.layer]
        if port.letter is None:
            return [block.mlp.gate_proj.weight, block.mlp.up_proj.weight]
        attention, width = block.self_attn, self.head_width
        group = self.shape.heads // (self.shape.kv_heads or self.shape.heads)
        place = int(node.index or 0) // (1 if port.letter == "q" else group)
        weight = getattr(attention, f"{port.letter}_proj").weight
        return [weight[place * width : (place + 1) * width]]

    def writing(self, layer: int) -> tuple[tuple[nn.Module, Tensor], tuple[nn.Module, Tensor]]:
        """Return the projections that write, of heads and MLP: module, weight [d_model, in]."""
        block = self.model.model.layers[layer]
        heads, mlp = block.self_attn.o_proj, block.mlp.down_proj
        return (heads, heads.weight), (mlp, mlp.weight)


BUILDERS: dict[str, type[Gpt2 | Llama]] = dict(zip(ARCHITECTURES, (Gpt2, Llama), strict=True))


def _zeroed(model: nn.Module) -> nn.Module:
    """Set every parameter to 0, in float64, in which the weights are scaled."""
    import torch

    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model
