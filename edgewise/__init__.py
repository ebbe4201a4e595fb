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
    "certify": "patching.run.certificate",
    "Choice": "steps.transplant",
    "Circuit": "graphs.circuit",
    "CircuitDiff": "graphs.diff",
    "CircuitFile": "graphs.files",
    "compare": "workflow",
    "ComputationGraph": "graphs.graph",
    "describe": "graphs.lift.lifting",
    "discover": "workflow",
    "draw": "visualize.draw",
    "Edge": "graphs.names",
    "EdgewiseError": "graphs.errors",
    "evaluate": "workflow",
    "Experiment": "experiment.spec",
    "get_method": "discovery.registry",
    "head_roles": "steps.head_roles",
    "LiftedModel": "graphs.lift.lifted",
    "load": "graphs.load.loading",
    "LoadedModel": "graphs.load.loading",
    "make_task": "patching.tasks",
    "Node": "graphs.names",
    "open_model": "workflow",
    "open_task": "workflow",
    "Pair": "patching.prompts.pairs",
    "patch_paths": "patching.paths",
    "Path": "patching.paths",
    "plain_block": "graphs.lift.plain",
    "plain_model": "graphs.lift.plain",
    "Port": "graphs.names",
    "PromptPairs": "patching.prompts.pairs",
    "read_circuit": "graphs.files",
    "read_pairs": "patching.prompts.pair_files",
    "read_roles": "graphs.files",
    "read_scores": "graphs.files",
    "read_spec": "experiment.document",
    "read_timeline": "graphs.files",
    "read_transplant": "graphs.files",
    "run_spec": "run",
    "Runner": "patching.run.runner",
    "Scores": "graphs.scores",
    "Selection": "experiment.spec",
    "timeline": "steps.timeline",
    "transplant": "steps.transplant",
    "write_circuit": "graphs.files",
    "write_roles": "graphs.files",
    "write_scores": "graphs.files",
    "write_timeline": "graphs.files",
    "write_transplant": "graphs.files",
}
"""Where each public name lives; it is imported when first used."""

__all__ = ["__version__", *_PUBLIC]  # noqa: PLE0604 - its keys are texts


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgewise' has no attribute '{name}'")
    return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
