"""Compiled programs: a RASP program as the weights of a transformer, by Tracr.

Tracr writes every variable of a program into coordinates of the stream of its own, so a compiled
model does what the program says, and by which edges follows from the program. It has no norms and
no biases; here its weights are put into a plain model (`graphs.lift.classes.plain`), which every
command takes. The extra `tracr` is needed to compile, not to use what was compiled.

Source: Lindner et al. 2023, Tracr: compiled transformers as a laboratory for interpretability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError

if TYPE_CHECKING:
    import torch

BOS, PAD = "BOS", "PAD"
"""What the compiler's own two tokens are called; every input begins with the first."""

Value = str | int | float | bool
"""What a token or an output can be."""


@typed
@dataclass(frozen=True, eq=False)
class CompiledProgram:
    """A program's model, and what its tokens and outputs stand for.

    `tokens`: by id. `outputs`: what each logit says, or None of a number, which is the first of two
    logits beside a second that is always 0.
    """

    model: Any = field(repr=False)
    tokens: tuple[Value, ...]
    outputs: tuple[Value, ...] | None
    length: int

    @typed
    def encode(self, values: Sequence[Value]) -> tuple[int, ...]:
        """Return the token ids of an input, with the first token before them."""
        place = {value: i for i, value in enumerate(self.tokens)}
        first = place.pop(BOS)
        del place[PAD]
        if strange := [one for one in values if one not in place]:
            raise EdgewiseError(
                f"{strange[0]!r} is no token of the program; accepted: "
                f"{', '.join(map(repr, place))}."
            )
        return (first, *(place[one] for one in values))


@typed
def compile_program(
    program: object,
    vocabulary: Sequence[Value],
    length: int,
    *,
    causal: bool = False,
    exactness: int = 100,
) -> CompiledProgram:
    """Compile a RASP program for inputs of at most so many tokens.

    Args:
        program: an SOp of `tracr.rasp.rasp`.
        vocabulary: every value that a token can have.
        length: the most tokens of an input, without the first one that Tracr puts before it.
        causal: attend backwards only, as a program means that is to be read from left to right.
        exactness: how sharply MLPs tell values apart (Tracr's `mlp_exactness`).

    Raises:
        EdgewiseError: Tracr is not installed, or cannot compile the program; says why.
    """
    tracr = _tracr()
    if length < 1 or not vocabulary:
        raise EdgewiseError(
            f"a program for {length} tokens of {len(vocabulary)} kinds; accepted: 1 or more of "
            "each."
        )
    if not isinstance(program, tracr.rasp.SOp):
        raise EdgewiseError(
            f"the program is of type {type(program).__name__}; accepted: an SOp of Tracr's RASP, "
            "such as rasp.Aggregate(…) or rasp.SelectorWidth(…)."
        )
    try:
        made = tracr.compile(
            program, set(vocabulary), length, causal=causal, compiler_bos=BOS, compiler_pad=PAD,
            mlp_exactness=exactness,
        )  # fmt: skip
    except Exception as error:  # Tracr tells of what it cannot do by errors of many kinds
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise EdgewiseError(
            f"Tracr cannot compile the program: {' '.join(first)[:300]}; accepted: programs of "
            "what Tracr compiles (see tracr.compiler.validating)."
        ) from error
    return _converted(made, length, causal)


@dataclass(frozen=True)
class _Tracr:
    rasp: Any
    compile: Any


def _tracr() -> _Tracr:
    try:
        from tracr.compiler.compiling import compile_rasp_to_model
        from tracr.rasp import rasp
    except ImportError as error:
        raise EdgewiseError(
            f"compiling a program takes Tracr, which is not installed here ({error}); install the "
            'extra: pip install "edgewise[tracr]".'
        ) from None
    return _Tracr(rasp, compile_rasp_to_model)


def _converted(made: Any, length: int, causal: bool) -> CompiledProgram:
    """Put Tracr's arrays into a plain model."""
    import torch

    from ..graphs.lift.classes.plain import classes

    arrays = {
        f"{place}/{name}": np.array(x, dtype=np.float64)
        for place, own in made.params.items()
        for name, x in own.items()
    }
    if biased := [name for name, x in arrays.items() if name.endswith("/b") and x.any()]:
        raise EdgewiseError(
            f"the compiled model has a bias, {biased[0]}; accepted: programs without."
        )
    tokens, positions = arrays["token_embed/embeddings"], arrays["pos_embed/embeddings"]
    unembed, shape = _unembedding(made, tokens.shape[1]), made.model_config
    config_class, model_class = classes()
    model = model_class(
        config_class(
            vocab_size=len(tokens), outputs=len(unembed), hidden_size=tokens.shape[1],
            num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads,
            head_dim=shape.key_size, intermediate_size=shape.mlp_hidden_size,
            max_position_embeddings=length + 1, causal=causal,
        )
    )  # fmt: skip
    model = model.double().eval()

    def put(parameter: torch.Tensor, array: np.ndarray) -> None:
        parameter.copy_(torch.from_numpy(array))

    with torch.no_grad():
        put(model.tokens.weight, tokens)
        put(model.positions.weight, positions[: length + 1])
        put(model.unembed.weight, unembed)
        for number, layer in enumerate(model.layers):
            place = f"transformer/layer_{number}"
            for name, part in _PARTS.items():
                put(getattr(layer, part).weight, arrays[f"{place}/{name}/w"].T)
    ids = made.input_encoder.encoding_map
    named = tuple(sorted(ids, key=ids.__getitem__))
    return CompiledProgram(model, named, _outputs(made), length)


_PARTS = {
    "attn/query": "query", "attn/key": "key", "attn/value": "value", "attn/linear": "output",
    "mlp/linear_1": "up", "mlp/linear_2": "down",
}  # fmt: skip
"""Where Tracr's arrays stand in a plain layer."""


def _unembedding(made: Any, width: int) -> np.ndarray:
    """Return the unembedding, [outputs, width]; of a number with a second row of 0."""
    import haiku
    import jax.numpy as jnp

    def apply(x: Any) -> Any:
        return made.get_compiled_model().unembed(x, use_unembed_argmax=False)

    run = haiku.without_apply_rng(haiku.transform(apply))
    out = np.array(run.apply(made.params, jnp.eye(width)[None]), dtype=np.float64)[0]
    return out.T if out.ndim == 2 else np.stack((out, np.zeros_like(out)))


def _outputs(made: Any) -> tuple[Value, ...] | None:
    """Return what each logit says; None of a number."""
    places = getattr(made.output_encoder, "encoding_map", None)
    if places is None:
        return None
    return tuple(sorted(places, key=places.__getitem__))
