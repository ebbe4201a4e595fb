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

_PUBLIC = {
    "Choice": "steps.transplant",
    "Circuit": "graphs.circuit",
    "CircuitDiff": "graphs.diff",
    "CircuitFile": "graphs.files",
    "ComputationGraph": "graphs.graph",
    "Edge": "graphs.names",
    "EdgewiseError": "graphs.errors",
    "Experiment": "experiment.spec",
    "LiftedModel": "graphs.lift.lifted",
    "LoadedModel": "graphs.load.loading",
    "Node": "graphs.names",
    "Pair": "patching.prompts.pairs",
    "Path": "patching.paths",
    "plain_block": "graphs.lift.plain",
    "plain_model": "graphs.lift.plain",
    "Port": "graphs.names",
    "PromptPairs": "patching.prompts.pairs",
    "Runner": "patching.run.runner",
    "Scores": "graphs.scores",
    "Selection": "experiment.spec",
    "certify": "patching.run.certificate",
    "compare": "workflow",
    "describe": "graphs.lift.lifting",
    "discover": "workflow",
    "draw": "visualize.draw",
    "evaluate": "discovery.evaluation",
    "get_method": "discovery.registry",
    "head_roles": "steps.head_roles",
    "load": "graphs.load.loading",
    "make_task": "patching.tasks",
    "open_model": "workflow",
    "open_task": "workflow",
    "patch_paths": "patching.paths",
    "read_circuit": "graphs.files",
    "read_pairs": "patching.prompts.pair_files",
    "read_roles": "graphs.files",
    "read_scores": "graphs.files",
    "read_spec": "experiment.document",
    "read_timeline": "graphs.files",
    "read_transplant": "graphs.files",
    "run_spec": "run",
    "timeline": "steps.timeline",
    "transplant": "steps.transplant",
    "write_circuit": "graphs.files",
    "write_roles": "graphs.files",
    "write_scores": "graphs.files",
    "write_transplant": "graphs.files",
    "write_timeline": "graphs.files",
}
"""Where each public name lives; it is imported when first used."""

__all__ = [
    "__version__",
    "certify",
    "Choice",
    "Circuit",
    "CircuitDiff",
    "CircuitFile",
    "compare",
    "ComputationGraph",
    "describe",
    "discover",
    "draw",
    "Edge",
    "EdgewiseError",
    "evaluate",
    "Experiment",
    "get_method",
    "head_roles",
    "LiftedModel",
    "load",
    "LoadedModel",
    "make_task",
    "Node",
    "open_model",
    "open_task",
    "Pair",
    "patch_paths",
    "Path",
    "plain_block",
    "plain_model",
    "Port",
    "PromptPairs",
    "read_circuit",
    "read_pairs",
    "read_roles",
    "read_scores",
    "read_spec",
    "read_timeline",
    "read_transplant",
    "run_spec",
    "Runner",
    "Scores",
    "Selection",
    "timeline",
    "transplant",
    "write_circuit",
    "write_roles",
    "write_scores",
    "write_timeline",
    "write_transplant",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgewise' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
