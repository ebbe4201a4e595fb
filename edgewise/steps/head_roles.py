"""Head roles: what each head of a circuit, or of a model, measurably does.

found = head_roles(session, pairs)
found.labels["a5.h1"]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..graphs.calls.typed import typed
from ..graphs.circuit import Circuit
from ..graphs.comparison import RolesInModel
from ..graphs.errors import EdgewiseError, within_memory
from ..graphs.files.circuit import CircuitFile
from ..graphs.names import Kind, Node
from ..graphs.roles import HeadRoles, ModelRoles
from ..patching.heads.random_tokens import model_blocks
from ..patching.prompts.answers import token_by_token
from ..patching.prompts.pairs import PromptPairs
from ..progress import Progress
from ..session import Session
from .found.blocks import task_block

EXAMPLES = 32  # a mean over more pairs hardly changes

Heads = Circuit | CircuitFile | Iterable[Node | str] | None


@typed
@within_memory()
def head_roles(
    session: Session,
    pairs: PromptPairs | None = None,
    *,
    heads: Heads = None,
    examples: int = EXAMPLES,
    sequences: int = 32,
    seed: int = 0,
    progress: Progress | None = None,
) -> ModelRoles:
    """Measure what heads attend to and write; `patching.roles` defines every score.

    Args:
        pairs: the task, for what heads do at its answer; default: none, random tokens only.
        heads: a circuit, whose heads are meant, or heads or their names; default: all.
        examples: the most pairs to use; the first ones.
        sequences, seed: how many sequences of random tokens, and what decides them.

    Raises:
        GraphMismatch: the model has no such head.
        PromptError: pairs do not fit the model, or it has too few tokens or positions.
    """
    from ..patching.heads.roles import measure

    if isinstance(heads, Circuit | CircuitFile):
        heads = circuit_heads(heads)
    nodes = None if heads is None else [HeadRoles.of(head, {}).node for head in heads]
    if examples < 1:
        raise EdgewiseError(f"examples is {examples}; accepted: a whole number from 1 up.")
    blocks = model_blocks(session.lifted, session.loaded.tokenizer, sequences=sequences, seed=seed)
    used = None if pairs is None else replace(pairs, pairs=pairs.pairs[:examples])
    found = measure(session.lifted, blocks, used, heads=nodes, progress=progress)
    notes, measures = list(blocks.notes()), {}
    if used is not None and found.difference is not None:
        measures = {"logit_difference": found.difference, "examples": len(used)}
        notes += _task_notes(session, used, found.difference)
    return ModelRoles(
        heads=found.heads,
        model=session.model_block,
        tokens=blocks.as_dict(),
        task=None if pairs is None else task_block(pairs),
        measures=measures,
        notes=tuple(notes),
    )


def circuit_heads(circuit: Circuit | CircuitFile) -> list[Node]:
    """List the heads of a circuit, in graph order."""
    whole = circuit.circuit if isinstance(circuit, CircuitFile) else circuit
    return [node for node in whole.nodes if node.kind is Kind.HEAD]


def roles_in(
    session: Session, pairs: PromptPairs, heads: Sequence[Node], progress: Progress | None = None
) -> RolesInModel:
    """Measure what some heads do in one model."""
    if not heads:
        return RolesInModel()
    found = head_roles(session, pairs, heads=heads, progress=progress)
    return RolesInModel(found.heads, found.notes)


def _task_notes(session: Session, pairs: PromptPairs, difference: float) -> list[str]:
    """Say what limits the values measured on a task."""
    from ..patching.heads.roles import TOP

    notes, tokens = [], token_by_token(pairs)
    if len(tokens) > len(pairs):
        notes.append(
            f"answers of several tokens are read token by token: the means are over the "
            f"{len(tokens):,} tokens of {len(pairs):,} pairs."
        )
        if any(not pair.distractors for pair in tokens) and all(p.distractors for p in pairs):
            notes.append(
                "behind tokens with which no distractor begins, the mean over all logits takes "
                "the distractors' place in direct attributions."
            )
    if any(not pair.distractors for pair in pairs):
        notes.append(
            "some pairs have no distractors; the mean over all logits takes their place in direct "
            "attributions."
        )
    if difference <= 0:
        notes.append(
            f"the model does not prefer the answers (mean logit difference {difference:.3g}), so "
            "no shares of it are given and no head is called copying."
        )
    vocabulary = len(session.lifted.unembed.weight)
    if vocabulary < 20 * TOP:
        notes.append(
            f"the vocabulary has {vocabulary} tokens, so that by chance alone {TOP} in "
            f"{vocabulary} tokens count as copied."
        )
    return notes
