"""Open what everything starts from: a model, lifted and certified, and its prompt pairs."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from .experiment.parts import split
from .experiment.spec import ComputeSpec, GraphSpec
from .experiment.task import EXAMPLES, TaskSpec, check_options, check_task
from .graphs.calls.typed import typed
from .graphs.errors import EdgewiseError, UnsupportedModel, within_memory
from .progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from .graphs.files.circuit import ModelBlock
    from .graphs.graph import ComputationGraph
    from .graphs.lift.lifted import LiftedModel
    from .graphs.lift.watching import Watch
    from .graphs.load.loading import LoadedModel
    from .patching.metrics.functions import Given
    from .patching.metrics.metric import Metric
    from .patching.prompts.pairs import PromptPairs
    from .patching.prompts.splits import PromptSplit
    from .patching.run.certificate import Certificate
    from .patching.run.runner import Runner
    from .patching.tasks import TaskReport, TaskResult


@dataclass(frozen=True, eq=False)
class Lift:
    """A model's description and certificate, and what tells whether they are still true."""

    lifted: LiftedModel
    certificate: Certificate
    watch: Watch = field(repr=False)
    of_pairs: dict[str, Certificate] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(model: Any, graph: GraphSpec, *, require: bool) -> Lift:
        """Describe a live model and certify the description; `require` that it is exact."""
        from .graphs.lift.lifting import describe, is_tried
        from .graphs.lift.watching import Watch

        tried = graph.try_family is None and is_tried(model)
        found: tuple[LiftedModel, Certificate] | None = None
        refusal: UnsupportedModel | None = None
        try:
            found = _proven(describe(model, **vars(graph)))
        except UnsupportedModel as error:
            refusal = error
        if tried and (found is None or found[0].parts_whole or not found[1].passed):
            found = _by_family(model, graph, found) or found
        if found is None:
            assert refusal is not None  # or something would have been found
            raise refusal
        lifted, certificate = found
        return Lift(lifted, certificate.require() if require else certificate, Watch.over(model))


def _proven(lifted: LiftedModel) -> tuple[LiftedModel, Certificate]:
    """Return a description with its certificate."""
    from .graphs.lift.live.guards import naming_modules
    from .patching.run.certificate import certify

    with naming_modules(lifted.model, "the model cannot be run as it was described"):
        return lifted, certify(lifted)


def _by_family(
    model: Any, graph: GraphSpec, shape: tuple[LiftedModel, Certificate] | None
) -> tuple[LiftedModel, Certificate] | None:
    """Describe a model that nobody knows as the first family that fits it and passes, if any does.

    `shape`: what the shape of its modules gave; a family that leaves no fewer parts whole is none.
    """
    from .graphs.lift.lifting import families_that_fit

    passed = shape is not None and shape[1].passed
    whole = shape[0].parts_whole if passed and shape is not None else None
    options = {key: value for key, value in vars(graph).items() if key != "try_family"}
    for lifted in families_that_fit(model, **options):
        if whole is not None and lifted.parts_whole >= whole:
            continue
        try:
            found = _proven(lifted)
        except EdgewiseError:
            continue
        if found[1].passed:
            return found
    return None


@typed
@dataclass(eq=False)
class Session:
    """A loaded model, its description, and the proof that the two compute the same.

    After the model was changed in place, as by a training step, description, certificate and the
    weights' hash are made anew when they are next read.
    """

    loaded: LoadedModel
    _lift: Lift
    engine: str = "auto"

    @property
    def lifted(self) -> LiftedModel:
        """Return the description of the model as it is now.

        Raises:
            ModelNotFound: the model has changed, and is in training mode.
            CertificateFailed, UnsupportedModel: see `open_model`.
        """
        return self._current().lifted

    @property
    def certificate(self) -> Certificate:
        """Return the proof for the model as it is now; see `lifted`."""
        return self._current().certificate

    @typed
    def certify(self, pairs: PromptPairs) -> Certificate:
        """Compare lift and model on an experiment's own prompts, at their full length, once.

        Raises:
            CertificateFailed: they differ there, and the model was opened to refuse that.
        """
        from .patching.run.certificate import certify

        lift, key = self._current(), pairs.sha256
        if key not in lift.of_pairs:
            found = certify(lift.lifted, pairs.at_spans(()))
            lift.of_pairs[key] = found.require() if lift.certificate.passed else found
        return lift.of_pairs[key]

    def _current(self) -> Lift:
        from .graphs.load.loading import refuse_training

        model, lift = self.loaded.model, self._lift
        if lift.watch.changed():
            refuse_training(model)
            graph = GraphSpec.of_graph(lift.lifted.graph, self.tried)
            self._lift = Lift.of(model, graph, require=lift.certificate.passed)
        return self._lift

    @property
    def graph(self) -> ComputationGraph:
        """Return the graph whose circuits can be found and run."""
        return self._lift.lifted.graph

    @property
    def tried(self) -> str | None:
        """Return the family that a model of an unregistered type was described by; else None."""
        from .graphs.lift.lifting import TRIED

        return self._lift.lifted.variants.get(TRIED)

    @property
    def device(self) -> torch.device:
        """Return where the model's stream lies."""
        return self._lift.lifted.device

    @property
    def model_block(self) -> ModelBlock:
        """Return what a circuit file says of the model: where it is from, family and shape."""
        from .graphs.files import model_block
        from .graphs.lift.lifting import TRUSTED

        loaded, lifted = self.loaded, self.lifted
        block = model_block(
            lifted.graph, name=loaded.name, revision=loaded.revision, d_model=lifted.d_model,
            weights_sha256=loaded.weights_sha256, family=lifted.family,
        )  # fmt: skip
        trusted = lifted.variants.get(TRUSTED)
        tried = {"tried_family": self.tried, "trusted_settings": trusted and trusted.split(", ")}
        known = {key: value for key, value in tried.items() if value}
        return cast("ModelBlock", {**block, **loaded.provenance, **known})


@typed
@within_memory()
def open_model(
    reference: Any,
    graph: GraphSpec | None = None,
    compute: ComputeSpec | None = None,
    *,
    require_certificate: bool = True,
    tokenizer: Any = None,
    progress: Progress | None = None,
    **fields: Any,
) -> Session:
    """Load a model, lift it, and certify the lift.

    Args:
        reference: what a user types for MODEL, a `LoadedModel`, or a live transformers model, which
            is taken as it is, with `tokenizer` for its prompts.
        graph, compute, fields: which graph, and where and how to compute, as in `dtype="float64"`.
        require_certificate: refuse a lift that does not compute what the model computes.
        progress: called at downloads and conversions.

    Raises:
        ModelNotFound, UnsupportedModel, CertificateFailed: says why.
    """
    from .graphs.load import loading
    from .patching.engines import check_engine

    own, how = split("open_model", fields, GraphSpec, ComputeSpec)
    graph, compute = (graph or GraphSpec()).but(**own), (compute or ComputeSpec()).but(**how)
    check_engine(compute.engine)
    if compute.threads is not None:
        import torch

        torch.set_num_threads(compute.threads)
    if isinstance(reference, loading.LoadedModel):
        loaded = reference
    elif isinstance(reference, str | os.PathLike):
        loaded = loading.load(
            reference, dtype=compute.dtype, device=compute.device,
            allow_pickle=compute.allow_pickle, any_type=graph.try_family is not None,
            progress=progress,
        )  # fmt: skip
    else:
        loaded = loading.from_module(reference, tokenizer)
    lift = Lift.of(loaded.model, graph, require=require_certificate)
    session = Session(loaded, lift, compute.engine)
    if session.tried is not None:
        from .graphs.lift.lifting import BY_SHAPE

        by = "by the shape of its modules" if session.tried == BY_SHAPE else f"as {session.tried}"
        warnings.warn(
            f"no family describes models of type '{session.lifted.model_type}'; this one is lifted "
            f"{by}, and its certificate decides.",
            stacklevel=2,
        )
    return session


@within_memory()
def open_changed(session: Session, change: Callable[[torch.nn.Module], None]) -> Session:
    """Open a copy of a session's model whose weights are changed; the session's stays as it is.

    Takes the model's memory a second time.
    """
    loaded = session.loaded
    model = copy.deepcopy(loaded.model)
    change(model)
    graph = GraphSpec.of_graph(session.graph, session.tried)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a family was tried has been said of the model itself
        return open_model(replace(loaded, model=model, _hashed=[]), graph, engine=session.engine)


@typed
def open_task(
    session: Session | str, task: TaskSpec | str, **fields: Any
) -> tuple[PromptPairs, TaskReport | None]:
    """Make a built-in task's prompt pairs for a model, or read them from a file.

    Args:
        session: the model, whose tokenizer and vocabulary count; a reference's weights stay unread.
        task, fields: a part, a built-in task's name or a file of pairs, as in `examples=32`.

    Returns:
        The pairs, and what was left out (None for a file; its pairs' origin says what was
        understood).

    Raises:
        UnknownName: no such task or option.
        PromptError: the pairs cannot be made or read.
    """
    from .patching.prompts.splits import hold_out

    part = task_of(task, **fields)
    if part.file is None:
        made = make_pairs(part, *open_vocabulary(session))
        return made.pairs, made.report
    pairs = _read_all(session, part)
    if part.test:
        return hold_out(pairs, part.examples, part.test, part.seed or 0).discovery, None
    return replace(pairs, pairs=pairs.pairs[: part.examples]), None


@typed
def open_split(session: Session | str, task: TaskSpec | str, **fields: Any) -> PromptSplit:
    """Make a task's prompt pairs for a model, and others that are held out to measure on.

    A built-in task makes as many others as it has, up to `test` (default: as many as `examples`),
    none of which is one of the first; a file's pairs are split (see `patching.prompts.splits`).

    Args:
        session, task, fields: as of `open_task`, as in `examples=32, test=64`; `test=0` holds
            nothing out.

    Raises:
        UnknownName, PromptError: as `open_task`; a file that has too few pairs.
    """
    from .patching.prompts.splits import PromptSplit, hold_out

    part = task_of(task, **fields)
    if part.file is not None:
        return hold_out(_read_all(session, part), part.examples, part.test, part.seed or 0)
    tokenizer, vocabulary = open_vocabulary(session)
    made = make_pairs(part, tokenizer, vocabulary)
    wanted, asked = len(made.pairs) if part.test is None else part.test, (part.examples, part.test)
    others = make_test_pairs(part, made.pairs, wanted, (tokenizer, vocabulary)) if wanted else None
    if others is None:
        words = f"nothing is held out: task '{part.name}' has no other pairs" if wanted else ""
        return PromptSplit(made.pairs, None, words, asked, report=made.report)
    words = f"held out: {len(others):,} others"
    if len(others) < wanted:
        words = f"held out: {len(others):,} pairs, all that task '{part.name}' has beside these"
    return PromptSplit(made.pairs, others, words, asked, others.seed, made.report)


def make_test_pairs(
    task: TaskSpec, taken: PromptPairs, examples: int, made_by: tuple[Any, int | None]
) -> PromptPairs | None:
    """Make a built-in task's pairs that are none of those taken, with a tokenizer and vocabulary.

    As many as the task has, if they are fewer than `examples`; None if it has none.
    """
    from .patching.tasks import make_others

    tokenizer, vocab_size = made_by
    own, choice = check_options(task.name, task.options)
    made = make_others(
        taken, examples, tokenizer=tokenizer, vocab_size=vocab_size, bos=task.bos,
        **{**choice, **own},
    )  # fmt: skip
    return None if made is None else _with_origin(made, task, tokenizer, choice).pairs


def _read_all(session: Session | str, part: TaskSpec) -> PromptPairs:
    """Read all pairs of a task's file, which remember how they were read."""
    from .graphs.files.places import local_paths
    from .patching.ablations.registry import ablations
    from .patching.metrics.registry import metrics
    from .patching.prompts.chat import Chat
    from .patching.prompts.pair_files import read_with
    from .patching.prompts.row_context import RowContext

    assert part.file is not None  # the caller has looked
    tokenizer, vocabulary = open_vocabulary(session)
    check_task(part.file)
    context = RowContext(
        tokenizer, part.bos, vocabulary, part.seed or 0, part.answers,
        Chat(part.system, part.continued),
        twinless=tuple(name for name, one in ablations().items() if not one.needs_corrupted),
        whole=tuple(name for name, one in metrics().items() if one.whole is not None),
        undistracted=tuple(name for name, one in metrics().items() if not one.needs_distractors),
        placeholders=_placeholders(session),
    )  # fmt: skip
    pairs = read_with(part.file, context)
    where = {"file": part.file, "paths": local_paths(part.file), "bos": part.bos, **part.taken}
    where |= {"spans": True} if part.spans else {}
    pairs = replace(pairs, origin={**pairs.origin, **where})
    return pairs.at_spans() if part.spans else pairs


def task_of(task: TaskSpec | str, **fields: Any) -> TaskSpec:
    """Return which pairs a part, or what a user types for a task, means with more fields."""
    (own,) = split("open_task", fields, TaskSpec)
    return task.but(**own) if isinstance(task, TaskSpec) else TaskSpec.named(task, **own)


def open_vocabulary(reference: Session | str) -> tuple[Any, int | None]:
    """Return a model's tokenizer and its vocabulary's size, where known, without its weights.

    Of a model with more logits than tokens their number, as an answer may be any; that prompts hold
    tokens alone is checked where they are run.
    """
    from .graphs.load.adapters import base_reference
    from .graphs.load.loading import load_tokenizer
    from .graphs.load.references import Form, find, has_tokenizer, read_json

    if isinstance(reference, Session):
        lifted = reference.lifted
        return reference.loaded.tokenizer, max(len(lifted.tokens), len(lifted.unembed.weight))
    source = base = find(reference, weights=False)
    if source.form is Form.ADAPTER:
        name, revision = base_reference(source.path)
        base = find(name, revision=revision, weights=False)
    if base.form is Form.GGUF:
        return load_tokenizer(reference), None
    config = read_json(base.path / "config.json")
    text = config.get("text_config")  # of a multimodal model
    own = text if isinstance(text, dict) else config
    sizes = [x for key in ("vocab_size", "outputs") if isinstance(x := own.get(key), int)]
    there = has_tokenizer(source.path) or has_tokenizer(base.path)
    return load_tokenizer(reference) if there else None, max(sizes, default=None)


def _placeholders(reference: Session | str) -> frozenset[int]:
    """Return the tokens in whose place a multimodal model puts images or sound."""
    from .graphs.load.references import Form, find, read_json

    if isinstance(reference, Session):
        return getattr(reference.lifted.model, "placeholders", frozenset())
    source = find(reference, weights=False)
    if source.form in (Form.ADAPTER, Form.GGUF):
        return frozenset()
    config = read_json(source.path / "config.json")
    text = config.get("text_config")
    if not isinstance(text, dict):
        return frozenset()
    from .graphs.lift.live.text_body import placeholders_of

    return placeholders_of(config, config.values(), text.get("vocab_size"))


@typed
def make_pairs(
    task: TaskSpec | str, tokenizer: Any, vocab_size: int | None, **fields: Any
) -> TaskResult:
    """Make a built-in task's pairs, which remember how to be made again."""
    from .patching.tasks import make_task

    part = task_of(task, **fields)
    own, choice = check_options(part.name, part.options)
    made = make_task(
        part.name, tokenizer=tokenizer, vocab_size=vocab_size, bos=part.bos,
        examples=part.examples or EXAMPLES, seed=part.seed or 0, **{**choice, **own},
    )  # fmt: skip
    return _with_origin(made, part, tokenizer, choice)


def _with_origin(
    made: TaskResult, task: TaskSpec, tokenizer: Any, choice: Mapping[str, object]
) -> TaskResult:
    """Have a built-in task's pairs remember how to be made again."""
    from .patching.prompts.tokens import tokens_sha256
    from .patching.tasks import get_task

    origin: dict[str, object] = {"options": {**made.options, **choice}, "bos": task.bos}
    origin |= task.taken
    if tokenizer is not None and get_task(task.name).needs_tokenizer:
        origin["tokens_sha256"] = tokens_sha256(tokenizer, made.pairs)
    pairs = made.pairs
    if task.spans:
        origin["spans"] = True
        pairs = pairs.at_spans(get_task(task.name).spans)
    return replace(made, pairs=replace(pairs, origin=origin))


@typed
def make_runner(
    session: Session,
    pairs: PromptPairs,
    *,
    metric: str | Metric | Given | None = None,
    ablation: str | None = None,
    batch_size: int | None = None,
    engine: str = "auto",
    mlps: Sequence[int] = (),
) -> Runner:
    """Return a runner of the session's model on prompt pairs, by default for scores.

    `metric`: a name, an expression, or a function of logits and a target (see
    `patching.metrics.functions`). `engine`: default, the session's. `mlps`: the layers whose MLPs'
    neurons are senders of their own.

    Raises:
        UnknownName, MetricSyntaxError, PromptError: the three do not fit together; says why.
    """
    from .patching.ablations.registry import default_ablation
    from .patching.metrics.registry import default_metric
    from .patching.run.runner import Runner

    metric = default_metric(searching=False) if metric is None else metric
    ablation = default_ablation() if ablation is None else ablation
    return Runner.create(
        session.lifted.with_neurons(mlps), pairs, metric=metric, ablation=ablation,
        batch_size=batch_size,
        engine=session.engine if engine == "auto" else engine,
    )  # fmt: skip
