"""An experiment: which models, which task, which method, what to measure and draw, as one value.

Flags, a TOML file (see `document`), Python and the blocks of a circuit file build the same value;
its parts are what the steps take, and `key` says what a result depends on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    InstanceOf,
    PlainValidator,
    Strict,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Self

from ..discovery.registry import Method, get_method, methods, scoring_method
from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError, UnknownName, unknown
from ..graphs.files.circuit import CircuitFile
from ..graphs.files.places import possible_places
from ..graphs.files.reading import is_there
from ..graphs.levels.nodes import EDGE, LEVELS, NEURON
from ..graphs.load.builtin.models import BUILT_IN
from ..graphs.load.loading import DTYPES, resolve_device
from ..patching.ablations.registry import ablations, default_ablation, get_ablation
from ..patching.engines import ENGINES, TORCH, about_engine, resolved
from ..patching.metrics.functions import about_metric, as_metric, metric_name, stored_metric
from ..patching.metrics.registry import default_metric
from ..visualize import accepted_suffixes
from ..visualize.compose import MOST_EDGES
from .key import Key, key_of
from .parts import (
    Count,
    Flag,
    Part,
    Text,
    Uncounted,
    Undeclared,
    Whole,
    Word,
    accepts,
    each,
    not_accepted,
    not_known,
    one_of,
    part,
    refused,
)
from .start import Start
from .task import TaskSpec
from .toml import Document, dump_toml

if TYPE_CHECKING:
    from ..graphs.graph import ComputationGraph

LEAST_REPETITIONS = 2
"""How often a discovery is repeated at least, to tell how much circuits vary."""

SHARE = 0.005
"""The smallest change of a score that matters, as a share of the whole behaviour."""

IMPORTED = "imported"
"""What a circuit file has for a method where another tool found the circuit."""

ENDINGS = [suffix.removeprefix(".") for suffix in accepted_suffixes()]


# -- what fields accept, as registries say --------------------------------------------------------


def _metric(given: object) -> str:
    """Return a metric's name; of a Python function one that carries it."""
    if isinstance(given, str) and not given.strip():
        raise not_accepted("a text that is not blank")
    try:
        return metric_name(given)
    except EdgewiseError as error:
        raise refused(error) from None


def _listed(what: str, *, empty: bool = False) -> BeforeValidator:
    """Accept a list of texts, each once; an empty tuple is a default."""

    def check(value: object) -> tuple[str, ...]:
        found = tuple(value) if isinstance(value, list | tuple) else (None,)
        found = tuple(metric_name(item) if callable(item) else item for item in found)
        texts = tuple(item for item in found if isinstance(item, str))
        if len(set(texts)) < len(found) or not (found or empty or value == ()):
            raise not_accepted(f"a list of {what}, each once")
        return texts

    return BeforeValidator(check)


def _ablation(name: str) -> str:
    """Return an ablation's whole name: with the hash of a file that stands in it."""
    try:
        return get_ablation(name).name
    except UnknownName:
        raise not_known(list(ablations())) from None
    except EdgewiseError as error:
        raise refused(error) from None


def _layers(value: object) -> tuple[int, ...]:
    """Accept numbers of layers, each once, as a list or as a text such as `9,10`."""
    given = value.split(",") if isinstance(value, str) else value
    found = tuple(given) if isinstance(given, list | tuple) else (None,)
    texts = [str(one).strip() for one in found]
    wrong = any(isinstance(one, bool) for one in found)
    if wrong or not all(map(str.isdecimal, texts)) or len(set(texts)) < len(texts):
        raise not_accepted("numbers of layers, each once, such as 9,10")
    return tuple(sorted(map(int, texts)))


MetricName = Annotated[str, PlainValidator(_metric)]
Ablation = Annotated[Word, AfterValidator(_ablation)]
NotNegative = Annotated[
    float, Strict(), Field(ge=0, allow_inf_nan=False), accepts("a number from 0 up")
]
Penalty = Annotated[float, Strict(), Field(ge=0), accepts("a number from 0 up, or inf")]
UpToOne = Annotated[
    float, Strict(), Field(gt=0, le=1), accepts("a number above 0, up to 1, such as 0.9")
]
Level = Annotated[float, Strict(), Field(gt=0, lt=1), accepts("between 0 and 1")]
Repetitions = Annotated[
    int,
    Strict(),
    Field(ge=LEAST_REPETITIONS),
    accepts(f"a whole number from {LEAST_REPETITIONS} up"),
]
Drawn = Annotated[
    int, Strict(), Field(ge=1, le=MOST_EDGES), accepts(f"a whole number from 1 to {MOST_EDGES}")
]


# -- the parts -----------------------------------------------------------------------------------


@part
class ModelSpec(Part):
    """A model: its label in files and reports, and the reference that loads it."""

    name: Annotated[Text, Uncounted("a label; the weights' hash counts")]
    source: Annotated[Text, Uncounted("where the weights are; their hash counts")]

    @staticmethod
    def at(source: str) -> ModelSpec:
        """Name a model by its reference alone.

        >>> ModelSpec.at("EleutherAI/pythia-70m@step0").name
        'pythia-70m'
        """
        return ModelSpec(default_name(source), source)

    @staticmethod
    def of_circuit(file: CircuitFile) -> ModelSpec:
        """Name the model a circuit was found in; refuse a file that does not say."""
        name, revision = file.model["name"], file.model["revision"]
        if not name:
            raise EdgewiseError(
                "the circuit's file names no model; say with `model` which one to use."
            )
        if "paths" in file.model:
            return ModelSpec.at(possible_places(name, file.model["paths"], file.path)[0])
        remote = revision and not is_there(name) and name not in BUILT_IN
        return ModelSpec.at(f"{name}@{revision}" if remote else str(name))

    @field_validator("name")
    @classmethod
    def _names_files(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}", name) or "_vs_" in name:
            why = (
                "which cannot name files; accepted: letters, digits, '.', '_', '+' and '-', "
                "beginning with a letter or digit, without '_vs_'."
            )
            raise PydanticCustomError("wrong", "wrong", {"why": why})
        return name


def numbered(sources: Sequence[str]) -> tuple[ModelSpec, ...]:
    """Name models by their references; those that would be called alike, by their numbers.

    >>> [model.name for model in numbered(["a/x", "b/x", "c/y"])]
    ['1-x', '2-x', '3-y']
    """
    names = [default_name(source) for source in sources]
    if len({name.lower() for name in names}) < len(names):
        names = [f"{number}-{name}"[:80] for number, name in enumerate(names, start=1)]
    return tuple(map(ModelSpec, names, sources))


def default_name(source: str) -> str:
    """Name a model by the last part of its reference, so that the name can name files."""
    last = Path(source.partition("@")[0].rstrip("/\\")).name.removesuffix(".gguf")
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "-", last).lstrip("._+-").replace("_vs_", "-vs-")
    return plain[:80] or "model"


@part
class GraphSpec(Part):
    """Which graph is meant: the options a model's graph has.

    Args:
        grouped_kv: one port for each key/value head.
        split_embedding: token and position embedding as two senders.
        try_family: describe a model whose type is not registered as this family, or type, is.
    """

    grouped_kv: Flag = False
    split_embedding: Flag = False
    try_family: str | None = None

    @staticmethod
    def of_graph(graph: ComputationGraph, tried: str | None = None) -> GraphSpec:
        """Return the options of a graph; `tried`: the family by which its model was described."""
        return GraphSpec(graph.grouped_kv, graph.split_embedding, tried)


@part
class Selection(Part):
    """Which edges of a scoring method are kept: at most one of the first four.

    Args:
        top: this many of largest |score|.
        above: those whose |score| is at least this.
        faithfulness: as few of largest |score| as reach this faithfulness.
        target: as few as reach it on prompt pairs that their scores are not of; by |score| where no
            size by signed score does.
        signed: by the scores themselves, not |score|: edges that work against the task come last.
        connected: only edges on ways of kept edges from the embedding to the logits count.
        stable: of these, only edges that so large a share of resamples of the prompts keep too.
        greedy: with `top`, edges join one by one from the logits back, so that each leads there.

    Raises:
        EdgewiseError: two ways are given, or `signed`, `connected`, `stable` or `greedy` alone, or
            `greedy` with another way than `top` or with `stable`, or a value makes no sense.
    """

    top: Count | None = None
    above: NotNegative | None = None
    faithfulness: UpToOne | None = None
    target: UpToOne | None = None
    signed: Flag = False
    connected: Flag = False
    stable: UpToOne | None = None
    greedy: Flag = False

    @staticmethod
    def usual() -> Selection:
        """Return what is kept if nothing is said: measured, see docs/explanation.md."""
        return Selection(target=0.9, signed=True, connected=True)

    @staticmethod
    def ways() -> list[str]:
        """List the fields of which one says how many edges are kept; the others say in what way."""
        manners = ("signed", "connected", "stable", "greedy")
        return [name for name in Selection.names() if name not in manners]

    @property
    def resamples(self) -> bool:
        """Tell whether scores on each example are needed to select edges."""
        return self.target is not None or self.stable is not None

    @property
    def way(self) -> str | None:
        """Return which of the ways is given."""
        return next((name for name in self.as_dict() if name in self.ways()), None)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [key for key in self.as_dict() if key in self.ways()]
        *others, last = self.ways()
        if self.as_dict() and not given:
            manner = next(iter(self.as_dict()))
            does = {
                "signed": "which scores count as large",
                "connected": "which edges count",
                "stable": "which edges are left out again",
                "greedy": "in which order edges join",
            }
            raise refused(
                f"{manner} says {does[manner]}, but nothing says how many edges to keep; accepted: "
                f"{', '.join(others)} or {last} beside it, of a method that scores all edges."
            )
        if len(given) > 1:
            raise refused(
                f"{' and '.join(given)} are given together; accepted: one way to select edges."
            )
        others = [key for key in (*given, "stable") if key in self.as_dict() and key != "top"]
        if self.greedy and others:
            raise refused(
                f"greedy and {others[0]} are given together; accepted: greedy with top, and with "
                "signed or connected beside it."
            )
        return self

    def as_dict(self) -> dict[str, float]:
        """Return what is given, under its name.

        >>> Selection(top=200).as_dict()
        {'top': 200}
        """
        return {k: v for k, v in vars(self).items() if v is not None and v is not False}

    @typed
    def words(self, level: str) -> str:
        """Say what is kept of scores of edges, or of nodes.

        >>> Selection(top=9).words("node")
        'the 9 nodes of largest absolute score, with every edge among them'
        """
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
        if level == EDGE or not self.as_dict():
            return str(self)
        return f"{str(self).replace('edges', f'{level}s')}, with every edge among them"

    def __str__(self) -> str:
        kind = "score" if self.signed else "absolute score"
        where = " on ways from embed to logits" if self.connected else ""
        few = "fewest edges of largest score" if self.signed else "fewest strongest edges"
        steady = "" if self.stable is None else f", of these those of stability {self.stable:g} up"
        if self.top is not None and self.greedy:
            return f"{self.top:,} edges, each the one of largest {kind} that leads to logits{where}"
        if self.top is not None:
            return f"the {self.top:,} edges of largest {kind}{where}{steady}"
        if self.above is not None:
            return f"the edges of {kind} {self.above:g} or more{where}{steady}"
        if self.faithfulness is not None:
            return f"the {few}{where} found to reach faithfulness {self.faithfulness:g}{steady}"
        if self.target is not None:
            unseen = "on pairs that their scores are not of"
            return f"the {few}{where} found to reach faithfulness {self.target:g} {unseen}{steady}"
        return "the edges the method keeps"


@part
class DiscoverySpec(Part):
    """How a circuit is found: the method with all its options, and which edges are kept.

    The metric defaults to the method's own. `start`: scores that a method starts from, if it can.
    `per_example`: the scores on each example are wanted too. `level`: what is scored and kept.
    `mlps`: at level `neuron` the layers whose MLPs' hidden units are.

    Raises:
        UnknownName: no such method, option, metric or ablation.
        EdgewiseError: a value makes no sense, the method selects edges itself, or cannot start from
            scores, or gives none on each example, or needs a gradient that the metric has not, or
            does not work at the level.
    """

    method: Annotated[Word, one_of(methods)]
    metric: MetricName = Field(default="", validate_default=True)
    ablation: Ablation = Field(default_factory=default_ablation)
    options: Mapping[str, Any] = Field(default_factory=dict, validate_default=True)
    select: Selection = Field(default_factory=Selection, validate_default=True)
    start: Annotated[
        InstanceOf[Start] | None, Undeclared("scores stand in a file of their own")
    ] = Field(default=None, validate_default=True)
    per_example: Flag = False
    level: Annotated[Word, one_of(lambda: LEVELS)] = Field(default=EDGE, validate_default=True)
    mlps: Annotated[tuple[int, ...], BeforeValidator(_layers)] = Field(
        default=(), validate_default=True
    )

    @staticmethod
    def usual(**fields: Any) -> DiscoverySpec:
        """Return how a circuit is found where no method is named, and of what else is not given.

        >>> spec = DiscoverySpec.usual()
        >>> spec.method, str(spec.select)[:17], DiscoverySpec.usual(method="eap").keeps_all
        ('eap-ig', 'the fewest edges ', True)
        """
        if fields.get("method"):
            return DiscoverySpec.of(**fields)
        select = fields.get("select")
        if select is None or (isinstance(select, Selection) and not select.as_dict()):
            fields = {**fields, "select": Selection.usual()}
        method = scoring_method()
        if "ablation" in fields and "options" not in fields:
            fields["options"] = method.suited(get_ablation(fields["ablation"]))
        return DiscoverySpec.of(**{**fields, "method": method.name})

    @staticmethod
    def of_circuit(file: CircuitFile) -> DiscoverySpec:
        """Return how a file's circuit was found, so that it can be done again.

        Raises:
            UnknownName: a method, or ablation, or metric, that this program does not know.
            EdgewiseError: the circuit's method started from given scores, which the file has not,
                or another tool found it.
        """
        block: Mapping[str, Any] = file.discovery
        if block["method"] == IMPORTED:
            source = block.get("source")
            tool = source.get("tool", "") if isinstance(source, Mapping) else ""
            raise EdgewiseError(
                f"the discovery cannot be repeated: the circuit was imported"
                f"{f' from {tool}' * bool(tool)}; accepted: a circuit that was found here."
            )
        method = get_method(str(block["method"]))
        if "start" in block:
            raise EdgewiseError(
                f"the discovery cannot be repeated: '{method.name}' started from scores that were "
                "given to it and are of one set of prompts; accepted: a circuit found without "
                "`start`."
            )
        options = {key: block[key] for key in method.options if key in block}
        limits = [] if method.selects else [key for key in Selection.names() if key in block]
        select = Selection(**{key: block[key] for key in limits})
        metric = stored_metric(block)
        level, mlps = str(block.get("level", EDGE)), block.get("mlps", ())
        return DiscoverySpec(
            method.name, metric, block["ablation"], options, select, level=level, mlps=mlps
        )

    @field_validator("metric", mode="before")
    @classmethod
    def _default_metric(cls, metric: object, info: ValidationInfo) -> object:
        if metric not in (None, ""):
            return metric
        method = methods().get(info.data.get("method", ""))
        return default_metric(searching=False) if method is None else method.default_metric

    @field_validator("options", mode="before")
    @classmethod
    def _options(cls, options: object, info: ValidationInfo) -> object:
        method = methods().get(info.data.get("method", ""))
        if method is None:
            return {}
        given = each(options, lambda key, value: {key: method.check_option(key, value)})
        try:
            return method.check(given)
        except EdgewiseError as error:  # they contradict each other
            raise refused(error) from None

    @field_validator("select")
    @classmethod
    def _selects(cls, select: Selection, info: ValidationInfo) -> Selection:
        method = methods().get(info.data.get("method", ""))
        if method is not None and method.selects and select.as_dict():
            given = next(iter(select.as_dict()))
            raise refused(
                f"method '{method.name}' selects its edges itself, so {given} cannot be given; "
                f"accepted: its options ({', '.join(method.options)})."
            )
        return select

    @field_validator("start")
    @classmethod
    def _fits(cls, start: Start | None, info: ValidationInfo) -> Start | None:
        method = methods().get(info.data.get("method", ""))
        if method is None or "metric" not in info.data:
            return start
        try:
            if start is None:
                method.check_metric(as_metric(info.data["metric"]))
            else:
                method.check_start()
        except EdgewiseError as error:
            raise refused(error, at="metric" if start is None else "start") from None
        return start

    @field_validator("per_example")
    @classmethod
    def _gives_them(cls, per_example: bool, info: ValidationInfo) -> bool:
        method, select = methods().get(info.data.get("method", "")), info.data.get("select")
        if method is not None and (per_example or (select is not None and select.resamples)):
            try:
                method.check_by_example()
            except EdgewiseError as error:
                raise refused(error) from None
        return per_example

    @field_validator("level")
    @classmethod
    def _works_there(cls, level: str, info: ValidationInfo) -> str:
        method, select = methods().get(info.data.get("method", "")), info.data.get("select")
        if method is None:
            return level
        if EDGE not in method.levels and level == EDGE:  # the default; what else is meant is clear
            level = method.levels[0]
        try:
            method.at(level)
        except EdgewiseError as error:
            raise refused(error) from None
        if level != EDGE and select is not None and (select.stable is not None or select.greedy):
            manner = "greedy" if select.greedy else "stable"
            raise refused(
                f"{manner} chooses among edges, and level {level} keeps or ablates all edges out "
                f"of a node together; accepted: level {EDGE}, or a selection without it."
            )
        return level

    @field_validator("mlps")
    @classmethod
    def _of_neurons(cls, mlps: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        level = info.data.get("level")
        if level == NEURON and not mlps:
            raise refused(
                "level neuron needs `mlps`, the layers whose MLPs' hidden units are told apart; "
                "accepted: one or a few, such as 9 or 9,10."
            )
        if mlps and level not in (None, NEURON):
            raise refused(
                f"mlps chooses the MLPs whose neurons are told apart, and the level is {level}; "
                f"accepted: level {NEURON}, or no mlps."
            )
        return mlps

    @property
    def by_example(self) -> bool:
        """Tell whether scores on each example are needed, for themselves or to select edges."""
        return self.per_example or self.select.resamples

    @property
    def told_options(self) -> dict[str, object]:
        """Return the method's options that a report tells: all but quiet ones left as they are."""
        own = self.chosen.options
        return {
            key: value
            for key, value in self.options.items()
            if not (key in own and own[key].quiet and value == own[key].default)
        }

    @property
    def chosen(self) -> Method:
        """Return the method, at the level."""
        return get_method(self.method).at(self.level)

    @property
    def block(self) -> dict[str, object]:
        """Return what a file says of the request, in its order."""
        found = {"method": self.method, **self.options, **self.select.as_dict()}
        found |= {} if self.level == EDGE else {"level": self.level}
        found |= {"mlps": list(self.mlps)} if self.mlps else {}
        if self.start is not None:
            found["start"] = self.start.about
        measured = {"metric": self.metric, **about_metric(self.metric)}
        return {**found, **measured, "ablation": self.ablation}

    @property
    def keeps_all(self) -> bool:
        """Tell whether every edge is kept: nothing selects."""
        return not (self.chosen.selects or self.select.as_dict())

    @property
    def scored_by(self) -> tuple[str, Mapping[str, Any]]:
        """Return the method, with options, whose scores are tested: searches score few edges."""
        if not self.chosen.selects:
            return self.method, self.options
        other = scoring_method()
        return other.name, other.suited(get_ablation(self.ablation))

    def check_scored(self) -> None:
        """Refuse a metric without the gradient by which edges are scored to be tested."""
        get_method(self.scored_by[0]).check_metric(as_metric(self.metric))

    def differences(self, other: DiscoverySpec) -> list[str]:
        """List in words what differs, but for options that change only the time it takes."""
        a, b = self.block, other.block
        options = self.chosen.options | other.chosen.options
        keys = [key for key in a | b if key not in options or not options[key].only_time]
        return [f"{key} {a.get(key)} and {b.get(key)}" for key in keys if a.get(key) != b.get(key)]


@part
class EvaluationSpec(Part):
    """What to measure of each circuit; the ablation defaults to the discovery's.

    `random`: beside how many random circuits. `tests`, `worst`, `control`, `rivals`: see
    `edgewise.steps.claims`. `draws`, `draw_seed`: how many random circuits and edges the tests
    draw, and what decides which. `penalty`: on edges that rivals share with circuits before them.
    """

    metrics: Annotated[tuple[MetricName, ...], _listed("metrics")] = ()
    curve: Flag = False
    ablation: Annotated[Ablation | None, Undeclared("the discovery's")] = None
    minimality: Annotated[Flag, Undeclared("of `evaluate` alone")] = False
    random: Count | None = None
    tests: Flag = False
    worst: Flag = False
    draws: Count = 99
    draw_seed: Whole = 0
    control: Flag = False
    rivals: Count | None = None
    penalty: Penalty = 1.0

    @property
    def claims(self) -> bool:
        """Tell whether more is asked for than measures of the circuit itself."""
        return bool(self.random or self.tests or self.worst or self.control or self.rivals)


def measured_by(metric: str | None, ablation: str | None) -> dict[str, str]:
    """Return by what a circuit is measured whose file does not say by what it was found."""
    chosen = as_metric(default_metric(searching=False) if metric is None else metric)
    kind = get_ablation(default_ablation() if ablation is None else ablation)
    return {"metric": chosen.name, "ablation": kind.name}


@part
class ComparisonSpec(Part):
    """What stands beside each diff: the test of every edge, repetitions, circuits run in both.

    Args:
        paired: test every edge on the same prompts in both models; None: where that can be done.
        delta: the smallest change that matters, in units of the metric.
        delta_share: the same, as a share of the larger model's difference between all edges and
            none; default `SHARE`, unless `delta` is given.
        controls: look whether edges are found to change where nothing has.
        function: measure what the edges that changed do in both models.
        noise_floor: how often each discovery is repeated, to see how stable the sets of edges are.
        level: the share of false changes that is accepted.

    Raises:
        EdgewiseError: a value makes no sense, or `delta` and `delta_share` are given together.
    """

    paired: Flag | None = None
    delta: NotNegative | None = None
    delta_share: NotNegative | None = None
    controls: Flag = True
    function: Flag = True
    noise_floor: Repetitions | None = None
    level: Level = 0.05
    cross: Flag = False
    roles: Flag = False

    @model_validator(mode="after")
    def _one_delta(self) -> Self:
        if self.delta is not None and self.delta_share is not None:
            raise refused(
                "delta and delta_share are given together; accepted: one way to say which change "
                "is the smallest that matters."
            )
        return self

    @property
    def share(self) -> float | None:
        """Return which share of the behaviour the smallest change is, None if `delta` says it."""
        if self.delta is not None:
            return None
        return SHARE if self.delta_share is None else self.delta_share

    @property
    def asks(self) -> bool:
        """Tell whether something is to be done in the models, whatever else is found."""
        return bool(self.paired or self.noise_floor or self.cross or self.roles)


@part
class DrawingSpec(Part):
    """What to draw: endings of image files (none: no images), how many edges at most, maps."""

    formats: Annotated[tuple[str, ...], _listed(f"formats ({', '.join(ENDINGS)})", empty=True)] = (
        "svg",
    )
    top: Drawn = 120
    layout: Annotated[Word, one_of(lambda: ("auto", "dot", "built-in"))] = "auto"
    heat_map: Flag = True
    overlap: Flag = True

    @field_validator("formats")
    @classmethod
    def _drawable(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        from importlib.util import find_spec

        for found in formats:
            if found not in ENDINGS:
                raise not_known(ENDINGS, found=found)
        if {"png", "pdf"} & set(formats) and find_spec("matplotlib") is None:
            raise refused(
                "drawing.formats: png and pdf need matplotlib, which is not installed; install it "
                'with pip install "edgewise[draw]", or draw svg, html or dot.'
            )
        return formats


@part
class ComputeSpec(Part):
    """Where and how to compute; the batch size defaults to what fits in memory."""

    device: Annotated[Text, Uncounted("the device it stands for counts")] = "auto"
    dtype: Annotated[Word, one_of(lambda: DTYPES)] = "float32"
    batch_size: Count | None = None
    engine: Annotated[
        Word, one_of(lambda: ENGINES), Uncounted("the engine it stands for counts")
    ] = "auto"
    threads: Annotated[
        Count | None,
        Undeclared("of one machine"),
        Uncounted("the number torch computes with counts"),
    ] = None
    allow_pickle: Annotated[
        Flag,
        Undeclared("a file must not let code run"),
        Uncounted("it decides whether weights are read at all, not what they are"),
    ] = False

    @staticmethod
    def of_circuit(file: CircuitFile) -> ComputeSpec:
        """Return the precision of a circuit; device and batch size are of one machine and model."""
        return ComputeSpec(dtype=file.discovery.get("dtype") or "float32")

    def surroundings(self) -> dict[str, object]:
        """Return the device, and what moves the last digits of numbers on it."""
        import torch
        import transformers

        device = resolve_device("auto") if self.device == "auto" else self.device
        processor = torch.backends.cpu.get_cpu_capability()
        if device.startswith("cuda"):
            processor += f", {torch.cuda.get_device_name(device)}"
        versions = {one.__name__: str(one.__version__) for one in (torch, transformers)}
        matmul = torch.get_float32_matmul_precision()
        threads = self.threads or torch.get_num_threads()
        how = {"processor": processor, "threads": threads, "matmul": matmul}
        engine = resolved(self.engine, device)
        others = {} if engine == TORCH else {"engine": about_engine(engine)}
        return {"device": device, **how, **versions, **others}


@part
class Experiment(Part):
    """Everything a person asks for, checked, with every default filled in."""

    name: Annotated[Text, Uncounted("a title")]
    models: tuple[ModelSpec, ...]
    task: TaskSpec
    discovery: DiscoverySpec
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec, validate_default=True)
    drawing: DrawingSpec = Field(default_factory=DrawingSpec)
    compute: ComputeSpec = Field(default_factory=ComputeSpec)
    graph: GraphSpec = Field(default_factory=GraphSpec)
    comparison: ComparisonSpec = Field(default_factory=ComparisonSpec)
    description: Annotated[Word, Uncounted("for readers")] = ""
    circuit: Annotated[
        InstanceOf[CircuitFile] | None,
        Undeclared("a circuit has a file of its own"),
        Uncounted("it holds prompt pairs; their hash counts"),
    ] = None

    @staticmethod
    @typed
    def from_circuit(file: CircuitFile | str | Path) -> Experiment:
        """Return the experiment that found a circuit, from its file's own blocks and prompt pairs.

        Raises:
            EdgewiseError: the file does not say enough, or what this program does not know.
        """
        from ..graphs.files import read_circuit

        found = file if isinstance(file, CircuitFile) else read_circuit(file)
        model, task = ModelSpec.of_circuit(found), TaskSpec.of_circuit(found)
        compute = ComputeSpec.of_circuit(found).but(batch_size=found.discovery.get("batch_size"))
        tried = found.model.get("tried_family")
        graph, name = GraphSpec.of_graph(found.circuit.graph, tried), f"{task.name} in {model.name}"
        return Experiment(
            name, (model,), task, DiscoverySpec.of_circuit(found), compute=compute, graph=graph,
            circuit=found,
        )  # fmt: skip

    @typed
    def on(self, *models: str) -> Experiment:
        """Return the same experiment on other models, which may need another batch size.

        >>> found = Experiment("x", (ModelSpec.at("a"),), TaskSpec("ioi"), DiscoverySpec("acdc"))
        >>> found.on("b").base.source
        'b'
        """
        return self.but(models=numbered(models), compute=self.compute.but(batch_size=None))

    @property
    def base(self) -> ModelSpec:
        """Return the first model, with which the others are compared."""
        return self.models[0]

    @property
    def variants(self) -> tuple[ModelSpec, ...]:
        """Return the other models."""
        return self.models[1:]

    @typed
    def key(self, *parts: str, **facts: object) -> Key:
        """Return what a result of these parts, by name, and facts depends on; see `key_of`.

        Without names, of all; models and prompts count as they are referred to, not as they are.
        """
        if not parts:
            pairs = self.task.file if self.circuit is None else self.circuit.task["sha256"]
            facts = {"models": [one.source for one in self.models], "pairs": pairs, **facts}
        for name in parts:
            if name not in TABLES:
                raise unknown("name in `parts`", name, TABLES)
        return key_of(*(getattr(self, name) for name in parts or TABLES), **facts)

    def to_document(self) -> dict[str, Document]:
        """Return the tables of a TOML file that declares the same; reading it gives this value."""
        found: dict[str, Document] = {key: getattr(self, key).table() for key in TABLES}
        if self.task.file is not None:
            found["task"] = {k: v for k, v in self.task.table().items() if k != "name"}
        about: Document = {"name": self.name, "description": self.description or None}
        return {"experiment": about, "models": [one.table() for one in self.models], **found}

    def to_toml(self) -> str:
        """Return the same as text; an EdgewiseError if a metric is a Python function."""
        for name in (self.discovery.metric, *self.evaluation.metrics):
            if about_metric(name):
                raise EdgewiseError(
                    f"the metric '{name}' is a Python function, which an experiment's file cannot "
                    "hold; accepted: names and expressions. From Python `discover` and `evaluate` "
                    "take functions."
                )
        return dump_toml(self.to_document())

    @field_validator("models")
    @classmethod
    def _named_apart(cls, models: tuple[ModelSpec, ...]) -> tuple[ModelSpec, ...]:
        if not models:
            raise not_accepted("one or more, each headed [[models]]")
        names = [model.name.lower() for model in models]
        alike = [
            f"models[{number}].name is '{model.name}', like a model before it; give each model a "
            "name of its own."
            for number, model in enumerate(models, start=1)
            if model.name.lower() in names[: number - 1]
        ]
        if alike:
            raise refused(*alike)
        return models

    @field_validator("evaluation")
    @classmethod
    def _evaluable(cls, evaluation: EvaluationSpec, info: ValidationInfo) -> EvaluationSpec:
        found: DiscoverySpec | None = info.data.get("discovery")
        if found is None:
            return evaluation
        if evaluation.curve and found.chosen.selects:
            raise refused(
                f"evaluation.curve is true, but method '{found.method}' does not score every edge; "
                f"leave it out, or choose a method that does, such as {scoring_method().name}."
            )
        for name in ("tests", "random", "rivals"):
            if getattr(evaluation, name) and found.keeps_all:
                raise refused(
                    f"evaluation.{name} is given, but nothing says which edges to keep, so every "
                    "edge is kept, and a random circuit of its size is itself; leave it out, or "
                    "give the discovery top, above, faithfulness or target."
                )
        default = tuple(dict.fromkeys([found.metric, default_metric(searching=True)]))
        return evaluation if evaluation.metrics else evaluation.but(metrics=default)

    @field_validator("comparison")
    @classmethod
    def _comparable(cls, comparison: ComparisonSpec, info: ValidationInfo) -> ComparisonSpec:
        found: DiscoverySpec | None = info.data.get("discovery")
        if found is not None and comparison.paired:
            try:
                found.check_scored()
            except EdgewiseError as error:
                raise refused(error, at="comparison.paired") from None
        return comparison


TABLES: dict[str, type[Part]] = {
    "task": TaskSpec,
    "graph": GraphSpec,
    "discovery": DiscoverySpec,
    "evaluation": EvaluationSpec,
    "comparison": ComparisonSpec,
    "drawing": DrawingSpec,
    "compute": ComputeSpec,
}
"""The parts of an experiment, beside its models, by the names of their tables in a file."""

FIELDS = {"task", "task_settings", "measure", "circuit_level"}.union(
    Selection.names(), *(one.names() for one in TABLES.values())
)
"""What flags may say of an experiment: task and metrics as they are typed, fields of the parts."""
