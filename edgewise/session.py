"""Open what everything starts from: a model, lifted and certified, and its prompt pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from .experiment.spec import EXAMPLES, check_options, check_task, is_file
from .graphs.errors import PromptError, within_memory

if TYPE_CHECKING:
    import torch

    from .graphs.files.circuit import ModelBlock
    from .graphs.graph import ComputationGraph
    from .graphs.lift.lifted import LiftedModel
    from .graphs.load.loading import LoadedModel
    from .patching.prompts.pairs import PromptPairs
    from .patching.run.certificate import Certificate
    from .patching.run.runner import Runner
    from .patching.tasks import TaskReport, TaskResult

Progress = Callable[[int, int, str], None]
"""Called with what is done, the total, and a word of what is being done."""


# -- the model -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Lift:
    """A model's description and its certificate, of the weights in one state."""

    lifted: LiftedModel
    certificate: Certificate
    state: tuple[object, ...]

    @staticmethod
    def of(model: Any, *, grouped_kv: bool, split_embedding: bool, require: bool) -> Lift:
        """Describe a live model and certify that the description computes what it computes.

        Raises:
            UnsupportedModel, CertificateFailed: says why; the latter only if it is required.
        """
        from .graphs.lift.lifting import describe
        from .graphs.load.weights import weights_state
        from .patching.run.certificate import certify

        state = weights_state(model)
        lifted = describe(model, grouped_kv=grouped_kv, split_embedding=split_embedding)
        certificate = certify(lifted)
        return Lift(lifted, certificate.require() if require else certificate, state)


@dataclass(eq=False)
class Session:
    """A loaded model, its description, and the proof that the two compute the same.

    Weights may be changed in place, as by a training step: description and certificate are then
    made anew when they are next asked for, and so is the weights' hash.
    """

    loaded: LoadedModel
    _lift: Lift

    @property
    def lifted(self) -> LiftedModel:
        """Return the description of the model's weights as they are now.

        Raises:
            ModelNotFound: the weights have changed, and the model is in training mode.
            CertificateFailed, UnsupportedModel: see `open_model`.
        """
        return self._current().lifted

    @property
    def certificate(self) -> Certificate:
        """Return the proof for the model's weights as they are now; see `lifted`."""
        return self._current().certificate

    def _current(self) -> Lift:
        from .graphs.load.loading import refuse_training
        from .graphs.load.weights import weights_state

        model, lift = self.loaded.model, self._lift
        if weights_state(model) != lift.state:
            refuse_training(model)
            graph, passed = lift.lifted.graph, lift.certificate.passed
            self._lift = Lift.of(
                model,
                grouped_kv=graph.grouped_kv,
                split_embedding=graph.split_embedding,
                require=passed,
            )
        return self._lift

    @property
    def graph(self) -> ComputationGraph:
        """Return the graph whose circuits can be found and run."""
        return self._lift.lifted.graph

    @property
    def device(self) -> torch.device:
        """Return where the model's stream lies."""
        return self._lift.lifted.device

    @property
    def model_block(self) -> ModelBlock:
        """Return what a circuit file says of the model: where it is from, family and shape."""
        from .graphs.files import model_block

        origin, lifted = self.loaded.provenance, self.lifted
        shape = {key: origin.pop(key) for key in ("name", "revision", "weights_sha256")}
        block = model_block(lifted.graph, **shape, family=lifted.family, d_model=lifted.d_model)
        return cast("ModelBlock", {**block, **origin})


@within_memory()
def open_model(
    reference: Any,
    *,
    dtype: str = "float32",
    device: str = "auto",
    grouped_kv: bool = False,
    split_embedding: bool = False,
    allow_pickle: bool = False,
    require_certificate: bool = True,
    tokenizer: Any = None,
    progress: Progress | None = None,
) -> Session:
    """Load a model, lift it, and certify the lift.

    Args:
        reference: what a user types for MODEL, a `LoadedModel`, or a live transformers model; a
            live one is taken as it is, with `tokenizer` for its prompts.
        dtype, device, allow_pickle: see `graphs.loading.load`.
        grouped_kv: one port for each key/value head.
        split_embedding: `tok` and `pos` in place of `embed`.
        require_certificate: refuse a lift that does not compute what the model computes.
        progress: told of downloads and conversions.

    Raises:
        ModelNotFound, UnsupportedModel, CertificateFailed: says why.
    """
    from .graphs.load import loading

    if isinstance(reference, loading.LoadedModel):
        loaded = reference
    elif isinstance(reference, str | os.PathLike):
        loaded = loading.load(
            reference, dtype=dtype, device=device, allow_pickle=allow_pickle, progress=progress
        )
    else:
        loaded = loading.from_module(reference, tokenizer)
    lift = Lift.of(
        loaded.model,
        grouped_kv=grouped_kv,
        split_embedding=split_embedding,
        require=require_certificate,
    )
    return Session(loaded, lift)


# -- the task ------------------------------------------------------------------------------------


def open_task(
    session: Session,
    task: str,
    *,
    examples: int | None = None,
    seed: int = 0,
    bos: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[PromptPairs, TaskReport | None]:
    """Make a built-in task's prompt pairs for the session's model, or read them from a file.

    Args:
        session: the model, whose tokenizer and vocabulary count.
        task: a built-in task's name, or a JSON Lines file.
        examples: how many pairs; default 64 of a built-in task, all of a file, or its first ones.
        seed: fixes which pairs a built-in task makes.
        bos: force a beginning-of-sequence token or none; default: what the tokenizer does.
        options: the built-in task's own, and `length` and `groups`.

    Returns:
        The pairs, and what was left out (None for a file, of which nothing is ever left out).

    Raises:
        UnknownName: no such task or option.
        PromptError: the pairs cannot be made or read.
    """
    vocabulary, tokenizer = session.lifted.tokens.shape[0], session.loaded.tokenizer
    return _pairs(task, tokenizer, vocabulary, examples, seed, bos, options)


def open_pairs(
    reference: str,
    task: str,
    *,
    examples: int | None = None,
    seed: int = 0,
    bos: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> PromptPairs:
    """Make a task's prompt pairs for a model as `open_task` does, without reading its weights.

    Raises:
        ModelNotFound: there is no such model.
        UnknownName, PromptError: as `open_task`.
    """
    return _pairs(task, *open_vocabulary(reference), examples, seed, bos, options)[0]


def _pairs(
    task: str,
    tokenizer: Any,
    vocabulary: int | None,
    examples: int | None,
    seed: int,
    bos: bool | None,
    options: Mapping[str, Any] | None,
) -> tuple[PromptPairs, TaskReport | None]:
    from .graphs.files.places import local_paths
    from .patching.prompts.pair_files import read_pairs

    check_task(task, options)
    if not is_file(task):
        made = make_pairs(
            task, tokenizer, vocabulary, examples=examples, seed=seed, bos=bos, options=options
        )
        return made.pairs, made.report
    pairs = read_pairs(task, tokenizer, bos=bos, vocab_size=vocabulary)
    if examples is not None:
        if examples < 1:
            raise PromptError(f"examples is {examples}; accepted: a whole number from 1 up.")
        pairs = replace(pairs, pairs=pairs.pairs[:examples])
    where = {"file": task, "paths": local_paths(task), "bos": bos}
    return replace(pairs, origin={**pairs.origin, **where}), None


def open_vocabulary(reference: str) -> tuple[Any, int | None]:
    """Return a model's tokenizer, None if it has none, and its vocabulary's size if it is known.

    The weights are neither fetched nor read.

    Raises:
        ModelNotFound: there is no such model.
    """
    from .graphs.load.adapters import base_reference
    from .graphs.load.loading import load_tokenizer
    from .graphs.load.references import Form, find, has_tokenizer, read_json

    source = base = find(reference, weights=False)
    if source.form is Form.ADAPTER:
        name, revision = base_reference(source.path)
        base = find(name, revision=revision, weights=False)
    if base.form is Form.GGUF:
        return load_tokenizer(reference), None
    size = read_json(base.path / "config.json").get("vocab_size")
    if not (has_tokenizer(source.path) or has_tokenizer(base.path)):
        return None, size
    return load_tokenizer(reference), size


def make_pairs(
    task: str,
    tokenizer: Any,
    vocab_size: int | None,
    *,
    examples: int | None = None,
    seed: int = 0,
    bos: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> TaskResult:
    """Make a built-in task's pairs, which remember how to be made again."""
    from .patching.prompts.tokens import tokens_sha256
    from .patching.tasks import get_task, make_task

    own, choice = check_options(task, options or {})
    made = make_task(
        task,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        examples=EXAMPLES if examples is None else examples,
        seed=seed,
        bos=bos,
        **{**choice, **own},
    )
    origin: dict[str, Any] = {"options": {**made.options, **choice}, "bos": bos}
    if tokenizer is not None and get_task(task).needs_tokenizer:
        origin["tokens_sha256"] = tokens_sha256(tokenizer, made.pairs)
    return replace(made, pairs=replace(made.pairs, origin=origin))


def make_runner(
    session: Session,
    pairs: PromptPairs,
    *,
    metric: str,
    ablation: str = "resample",
    batch_size: int | None = None,
) -> Runner:
    """Return a runner of the session's model on prompt pairs.

    Raises:
        UnknownName, MetricSyntaxError, PromptError: the three do not fit together; says why.
    """
    from .patching.run.runner import Runner

    return Runner.create(
        session.lifted, pairs, metric=metric, ablation=ablation, batch_size=batch_size
    )
