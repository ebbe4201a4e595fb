"""Which engine computes: torch, or the compiled one, in JAX.

`auto` takes the compiled engine where JAX is installed, a card is there, and what is asked for runs
on it; else torch. Whoever names `jax` gets it, or is told why not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..graphs.errors import EdgewiseError, unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from ..graphs.circuit import Circuit
    from ..graphs.lift.lifted import LiftedModel
    from .metrics.metric import Metric
    from .run.floors import Ends

AUTO, TORCH, JAX = "auto", "torch", "jax"
ENGINES = (AUTO, TORCH, JAX)


class CircuitRuns(Protocol):
    """An engine's runs of circuits on a runner's prompt pairs; it is made of that runner."""

    def values(
        self,
        masks: np.ndarray,
        metrics: Sequence[Metric],
        losses: bool,
        progress: Callable[[int, int], object] | None = None,
    ) -> np.ndarray:
        """Return what `Runner.measure_each` does, of masks [C, P, S]."""

    def logits(self, circuits: Sequence[Circuit]) -> np.ndarray:
        """Return what `Runner.logits` does, on the processor."""

    def chunks(self) -> Iterator[Ends]:
        """Yield runs of the full and the empty circuit."""


Made = TypeVar("Made", bound=Callable[..., CircuitRuns])
_RUNS: dict[str, Callable[..., CircuitRuns]] = {}
_AT = {JAX: ".compiled.circuits"}


def runs_circuits(engine: str) -> Callable[[Made], Made]:
    """Register what runs circuits by an engine, beside torch, which a runner knows itself."""

    def register(made: Made) -> Made:
        _RUNS[engine] = made
        return made

    return register


def circuit_runs(engine: str) -> Callable[..., CircuitRuns]:
    """Return what runs circuits by an engine; its modules, and what they need, are loaded then."""
    import_module(_AT[engine], __package__)
    return _RUNS[engine]


def check_engine(name: str) -> str:
    """Return an engine's name; refuse what is none, and `jax` where it is not installed.

    >>> check_engine("torch")
    'torch'
    """
    if name not in ENGINES:
        raise unknown("engine", name, ENGINES)
    if name == JAX and not installed():
        raise EdgewiseError(
            "engine 'jax' needs the package JAX, which is not installed. On a processor, install "
            'it with pip install "edgewise[jax]"; for an NVIDIA card, with pip install '
            '"edgewise[jax]" "jax[cuda12]" (or "jax[cuda13]", by the driver). Engine \'torch\' '
            "needs nothing, and gives the same scores."
        )
    return name


def installed() -> bool:
    """Tell whether JAX is installed, without importing it."""
    return find_spec("jax") is not None


def on_a_card(device: str) -> bool:
    """Tell whether a torch device is a card, and JAX is installed and computes on one.

    Of a model that is elsewhere JAX, which takes a second to import, is not asked.
    """
    if not (installed() and device.startswith("cuda")):
        return False
    from .run.memory import share_the_card

    share_the_card()
    import jax

    return str(jax.default_backend()) in ("gpu", "cuda", "rocm")


def engine_of(asked: str, model: LiftedModel, metric: Metric | None = None) -> str:
    """Return the engine that computes what both engines can: gradients of a metric, or circuits.

    An EdgewiseError says why `jax`, asked for by name, cannot be had.
    """
    if asked == TORCH:
        return TORCH
    if asked == AUTO:
        fits = on_a_card(str(model.device)) and not _problem(model, metric)
        return JAX if fits else TORCH
    check_engine(JAX)
    if problem := _problem(model, metric):
        raise problem
    return JAX


def _problem(model: LiftedModel, metric: Metric | None) -> EdgewiseError | None:
    """Return why the compiled engine cannot run a model or compile a metric, if it cannot."""
    from .compiled.model import require_by_head, require_room

    try:
        require_by_head(model)
        require_room(model)
        if metric is not None:
            from .compiled.losses import counterpart

            counterpart(metric)
    except EdgewiseError as error:
        return error
    return None


def resolved(name: str, device: str) -> str:
    """Return the engine that `auto` stands for on a device, if what is asked for runs on it."""
    return name if name != AUTO else JAX if on_a_card(device) else TORCH


def about_engine(name: str) -> dict[str, str]:
    """Return what a file says of the engine that computed: its name and version."""
    try:
        return {"name": name, "version": version(name)}
    except PackageNotFoundError:
        return {"name": name, "version": "not installed"}
