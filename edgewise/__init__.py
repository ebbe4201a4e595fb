"""Declarative, graph-based circuit discovery for transformers.

>>> import edgewise
>>> graph = edgewise.ComputationGraph(layers=12, heads=12)
>>> graph.edge_count
32491
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "discovery.registry": ("get_method",),
    "experiment.document": ("read_spec",),
    "experiment.spec": ("Experiment", "Selection"),
    "graphs.circuit": ("Circuit",),
    "graphs.diff": ("CircuitDiff",),
    "graphs.errors": ("EdgewiseError",),
    "graphs.files.circuit": ("CircuitFile", "read_circuit", "write_circuit"),
    "graphs.files.exchange": ("read_eap_ig", "read_foreign", "write_eap_ig"),
    "graphs.files.roles": ("read_roles", "write_roles"),
    "graphs.files.scores": ("read_scores", "write_scores"),
    "graphs.files.timeline": ("read_timeline", "write_timeline"),
    "graphs.files.transplant": ("read_transplant", "write_transplant"),
    "graphs.graph": ("ComputationGraph",),
    "graphs.lift.lifted": ("LiftedModel",),
    "graphs.lift.lifting": ("describe",),
    "graphs.lift.plain": ("plain_block", "plain_model"),
    "graphs.load.builtin.licences": ("accept_licence",),
    "graphs.load.loading": ("load", "LoadedModel"),
    "graphs.names": ("Edge", "Node", "Port"),
    "graphs.scores": ("Scores",),
    "patching.metrics.metric": ("Metric", "Target"),
    "patching.paths": ("patch_paths", "Path"),
    "patching.prompts.pair_files": ("read_pairs",),
    "patching.prompts.pairs": ("Pair", "PromptPairs"),
    "patching.run.certificate": ("certify",),
    "patching.run.runner": ("Runner",),
    "patching.tasks": ("make_task",),
    "run": ("run_spec",),
    "steps.causal.measure": ("causal_roles",),
    "steps.head_roles": ("head_roles",),
    "steps.timeline": ("timeline",),
    "steps.transplant": ("Choice", "transplant"),
    "visualize.draw": ("draw",),
    "workflow": (
        "compare",
        "discover",
        "evaluate",
        "import_circuit",
        "open_model",
        "open_split",
        "open_task",
    ),
}
_PUBLIC = {name: module for module, names in _NAMES.items() for name in names}
"""Where each public name lives; it is imported when first used."""

__all__ = ["__version__", *sorted(_PUBLIC, key=str.lower)]  # noqa: PLE0604 - its keys are texts


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgewise' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
