"""An experiment as a TOML file: which models, which task, which method, what to measure and draw.

    [experiment]                      # optional
    name = "ioi"                      # default: the file's name
    description = "…"

    [[models]]                        # one or more; the first is what the others are compared with
    source = "smollm2-135m"           # what --model takes; paths are relative to this file
    name = "base"                     # names the model's files; default: from the source

    [task]
    name = "ioi"                      # a built-in task, or: file = "pairs.jsonl"
    examples = 32                     # default 64; of a file: all
    seed = 0                          # of a built-in task only, as are its own options
    bos = true                        # force a beginning-of-sequence token, or (false) none

    [graph]                           # optional
    grouped_kv = false
    split_embedding = false

    [discovery]
    method = "eap-ig"                 # and the method's own options, such as
    steps = 5
    metric = "logit_diff"             # a name or an expression
    ablation = "resample"
    faithfulness = 0.9                # which edges to keep by their scores: this, or top, or above
    signed = false                    # true: largest score, not largest absolute score

    [evaluation]                      # optional
    metrics = ["logit_diff", "kl"]    # default: the discovery's and kl
    curve = false                     # faithfulness by size, CPR and CMD

    [comparison]                      # optional
    noise_floor = 8                   # find each circuit so often again, on other prompts
    level = 0.05                      # of q-values: the share of false changes that is accepted
    cross = true                      # run both circuits of a diff in both models
    roles = true                      # measure in both what the circuits' heads do

    [drawing]                         # optional
    formats = ["svg", "png"]          # of the images, default svg; [] draws nothing
    top = 120                         # the strongest edges of a circuit, so that it stays readable
    layout = "auto"
    heat_map = true                   # node scores by layer and head, of two models side by side
    overlap = true                    # how alike every two circuits are, of three models or more

    [compute]                         # optional
    device = "auto"
    dtype = "float32"
    batch_size = 16                   # default: by memory

Everything is checked before any model is loaded, and all problems are reported at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..session import EXAMPLES
from .asking import Selection
from .toml import dump_toml, parse_toml, read_toml

if TYPE_CHECKING:
    from ..run import RunResult
    from ..session import Progress


@dataclass(frozen=True)
class ModelSpec:
    """Name a model: a label for files and reports, and the reference that loads it."""

    name: str
    source: str


@dataclass(frozen=True)
class TaskSpec:
    """Name a built-in task with the options given, or a file of pairs (`file` set, `seed` None)."""

    name: str
    file: str | None = None
    examples: int | None = EXAMPLES
    seed: int | None = 0
    bos: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GraphSpec:
    """Hold the graph's options."""

    grouped_kv: bool = False
    split_embedding: bool = False


@dataclass(frozen=True)
class DiscoverySpec:
    """Name a method, all its options, and which scored edges to keep (see `asking.Selection`)."""

    method: str
    metric: str
    ablation: str = "resample"
    options: Mapping[str, Any] = field(default_factory=dict)
    top: int | None = None
    above: float | None = None
    faithfulness: float | None = None
    signed: bool = False

    @property
    def select(self) -> Selection:
        """Return which scored edges are kept, as discovery takes it."""
        return Selection(self.top, self.above, self.faithfulness, self.signed)

    @property
    def selection(self) -> str:
        """Say in words which edges are kept."""
        kind = "score" if self.signed else "absolute score"
        if self.top is not None:
            return f"the {self.top:,} edges of largest {kind}"
        if self.above is not None:
            return f"the edges of {kind} {self.above:g} or more"
        if self.faithfulness is not None:
            few = "fewest edges of largest score" if self.signed else "fewest strongest edges"
            return f"the {few} found to reach faithfulness {self.faithfulness:g}"
        return "the edges the method keeps"


@dataclass(frozen=True)
class EvaluationSpec:
    """Say what to measure of each circuit."""

    metrics: tuple[str, ...]
    curve: bool = False


@dataclass(frozen=True)
class ComparisonSpec:
    """Say what stands beside each diff: repetitions in each model, circuits run in both."""

    noise_floor: int | None = None
    level: float = 0.05
    cross: bool = False
    roles: bool = False


@dataclass(frozen=True)
class DrawingSpec:
    """Say what to draw: endings of image files (none: no images), how many edges at most, maps."""

    formats: tuple[str, ...] = ("svg",)
    top: int = 120
    layout: str = "auto"
    heat_map: bool = True
    overlap: bool = True


@dataclass(frozen=True)
class ComputeSpec:
    """Say where and how to compute."""

    device: str = "auto"
    dtype: str = "float32"
    batch_size: int | None = None


@dataclass(frozen=True)
class Spec:
    """Hold a whole experiment, checked, with every default filled in."""

    name: str
    models: tuple[ModelSpec, ...]
    task: TaskSpec
    discovery: DiscoverySpec
    evaluation: EvaluationSpec
    drawing: DrawingSpec = DrawingSpec()
    compute: ComputeSpec = ComputeSpec()
    graph: GraphSpec = GraphSpec()
    comparison: ComparisonSpec = ComparisonSpec()
    description: str = ""

    @property
    def base(self) -> ModelSpec:
        """Return the first model, with which the others are compared."""
        return self.models[0]

    @property
    def variants(self) -> tuple[ModelSpec, ...]:
        """Return the other models."""
        return self.models[1:]

    def to_document(self) -> dict[str, Any]:
        """Return the tables of a TOML file that declares the same; reading it gives this value."""
        task, discovery = (_flat(asdict(part)) for part in (self.task, self.discovery))
        if self.task.file is not None:
            del task["name"]
        return {
            "experiment": {"name": self.name, "description": self.description or None},
            "models": [asdict(model) for model in self.models],
            "task": task,
            "graph": asdict(self.graph),
            "discovery": discovery,
            "evaluation": asdict(self.evaluation),
            "comparison": asdict(self.comparison),
            "drawing": asdict(self.drawing),
            "compute": asdict(self.compute),
        }

    def to_toml(self) -> str:
        """Return the same as text."""
        return dump_toml(self.to_document())


def run_spec(path: str | Path, output: str | Path, progress: Progress | None = None) -> RunResult:
    """Do everything a spec declares, into a directory; what is there already is not redone.

    Raises:
        SpecError: the spec is wrong; all problems are listed.
        EdgewiseError: the directory cannot be used, or a step failed; finished files stay.
    """
    from ..run import run

    return run(read_spec(path), output, progress)


def read_spec(path: str | Path) -> Spec:
    """Read and check a spec; its relative paths start from its own folder.

    Raises:
        SpecError: no TOML (with the place), or wrong in what it says (all problems are listed).
    """
    from .checks import check_spec

    path = Path(path)
    return check_spec(read_toml(path), folder=path.parent, source=str(path), name=path.stem)


def parse_spec(text: str, *, folder: str | Path = ".", name: str = "experiment") -> Spec:
    """Read and check a spec given as text; relative paths start from the folder.

    >>> text = '''
    ... [[models]]
    ... source = "smollm2-135m"
    ... [task]
    ... name = "ioi"
    ... [discovery]
    ... method = "eap-ig"
    ... top = 500
    ... '''
    >>> spec = parse_spec(text)
    >>> spec.base.name, spec.discovery.options, spec.evaluation.metrics
    ('smollm2-135m', {'steps': 5, 'midpoint': False}, ('logit_diff', 'kl'))

    Raises:
        SpecError: as `read_spec`.
    """
    from .checks import check_spec

    return check_spec(parse_toml(text, "the spec"), folder=Path(folder), name=name)


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """Put a table's options beside its own keys, as a spec has them."""
    options = table.pop("options")
    return {**table, **options}
