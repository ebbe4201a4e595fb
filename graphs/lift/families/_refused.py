"""Types of transformers that are not lifted, and why: what about them is no graph of senders.

For people: a type that no family lifts is refused whether or not it stands here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

_REASONS = {
    "LayerNorm stands on its stream, which is then no sum of what was written": """
        bart bert bert-generation big_bird blenderbot-small camembert data2vec-text electra ernie
        git marian mvp openai-gpt plbart prophetnet rembert roberta roc_bert roformer trocr xlm
        xlm-roberta xlnet xmod
    """,
    "norms stand on its stream, which is then no sum of what was written": "minimax",
    "it is the decoder of an encoder, whose output its layers attend to": """
        bigbird_pegasus blenderbot mbart pegasus whisper
    """,
    "it is an encoder, and a layer with an activation stands between its stream and its logits": """
        megatron-bert roberta-prelayernorm xlm-roberta-xl
    """,
    "a layer with an activation stands between its stream and its logits": "modernbert-decoder",
    "some of its layers attend to an image": "mllama",
    "it reads and writes several streams of sound at once": "musicgen musicgen_melody",
    "it gathers bytes to patches, which a model of their own reads": "blt",
    "it puts tokens of its own before every prompt": "cpmant",
    "it continues from the states of another model": "gemma4_assistant gemma4_unified_assistant",
    "its layers are reversible: they run on two streams": "reformer",
    "its stream is multiplied, not only added to, at every layer": "beam doge zaya",
    "some of its routers read the tokens themselves, which are no sum of what was written": """
        deepseek_v4
    """,
    "its layers tell later ones which keys to look at, past its streams": "hy_v4",
    "its experts write behind the attention that follows the stream they read": "longcat_flash",
    "its layers run again and again on their own output": "hrm_text",
    "the streams of its layers are gated": "qwen4_exp qwen4_exp_text",
    "what its parts write goes through short convolutions over positions": """
        inkling_text inkling2_text
    """,
    "an indexer chooses which keys its queries see": """
        axk2 dots3_note dots3_note_text minimax_m3_vl_text
    """,
}


def refusals(lifted: Collection[str]) -> Mapping[str, str]:
    """Map model types that no family lifts to the reason, a clause."""
    return {
        kind: reason
        for reason, kinds in _REASONS.items()
        for kind in kinds.split()
        if kind not in lifted
    }


_SUCH_AS = ("gpt2", "llama", "mistral", "qwen3", "gemma3_text", "mamba")


def supported(lifted: Collection[str]) -> str:
    """Name some of the types that are lifted, and how many more there are."""
    some = [kind for kind in _SUCH_AS if kind in lifted]
    return f"supported types: {', '.join(some)} and {len(lifted) - len(some)} more"
