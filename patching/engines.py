"""Which engine computes: torch, or the compiled one, in JAX.

`auto` takes the compiled engine where JAX is installed, a card is there, and what is asked for runs
on it; else torch. Whoever names `jax` gets it, or is told why not.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..graphs.errors import EdgewiseError, unknown

if TYPE_CHECKING:
    from ..graphs.lift.lifted import LiftedModel
    from .metrics.metric import Metric

AUTO, TORCH, JAX = "auto", "torch", "jax"
ENGINES = (AUTO, TORCH, JAX)


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


def on_a_card() -> bool:
    """Tell whether JAX is installed, and computes on a card here.

    Where torch sees no card JAX, which takes a second to import, is not asked.
    """
    import torch

    if not (installed() and torch.cuda.is_available()):
        return False
    import jax

    return str(jax.default_backend()) in ("gpu", "cuda", "rocm")


def engine_of(asked: str, model: LiftedModel, metric: Metric) -> str:
    """Return the engine that computes what both engines can, of a model by a metric.

    An EdgewiseError says why `jax`, asked for by name, cannot be had.
    """
    if asked == TORCH:
        return TORCH
    if asked == AUTO:
        return JAX if on_a_card() and not _problem(model, metric) else TORCH
    check_engine(JAX)
    if problem := _problem(model, metric):
        raise problem
    return JAX


def _problem(model: LiftedModel, metric: Metric) -> EdgewiseError | None:
    """Return why the compiled engine cannot run a model or compile a metric, if it cannot."""
    from .compiled.losses import counterpart
    from .compiled.model import require_by_head

    try:
        require_by_head(model)
        counterpart(metric)
    except EdgewiseError as error:
        return error
    return None


def resolved(name: str) -> str:
    """Return the engine that `auto` stands for here, if what is asked for runs on it."""
    return name if name != AUTO else JAX if on_a_card() else TORCH


def about_engine(name: str) -> dict[str, str]:
    """Return what a file says of the engine that computed: its name and version."""
    try:
        return {"name": name, "version": version(name)}
    except PackageNotFoundError:
        return {"name": name, "version": "not installed"}
