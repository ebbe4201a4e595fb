"""What the steps of a run share: the spec, the store, the model that is open, the prompt pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .experiment.spec import ModelSpec, Spec
from .graphs.files.atomic import write_text
from .graphs.files.json_files import dump_document
from .session import Progress, Session, open_model
from .store.hashes import digest, fingerprint
from .store.names import EVALUATION, PROMPTS, TASK
from .store.store import Store

if TYPE_CHECKING:
    from .patching.prompts.pairs import PromptPairs


class Job:
    """Hold a run's spec, its store and the model that is open; one is in memory at a time."""

    def __init__(self, spec: Spec, store: Store, progress: Progress | None) -> None:
        self.spec, self.store, self.progress = spec, store, progress
        self.made: list[str] = []
        self.kept: list[str] = []
        self._open: tuple[str, Session] | None = None
        self._fingerprints: dict[str, list[str]] = {}

    def step(
        self, name: str, inputs: Mapping[str, Any], files: Sequence[str], work: Callable[[], None]
    ) -> None:
        """Do a step unless it is finished, and note that it is."""
        from . import __version__

        key = digest({"edgewise": __version__, **inputs})
        made = self.store.get(name, key, files, work)
        (self.made if made else self.kept).append(name)

    def fingerprint(self, model: ModelSpec) -> list[str]:
        """Identify a model without loading it."""
        if model.source not in self._fingerprints:
            self._fingerprints[model.source] = fingerprint(model.source)
        return self._fingerprints[model.source]

    def session(self, model: ModelSpec) -> Session:
        """Open a model; the one that was open before is let go."""
        if self._open is None or self._open[0] != model.name:
            self._open = None
            compute, graph = self.spec.compute, self.spec.graph
            told = self.telling(model)
            told(0, 1, "loading the model")
            session = open_model(
                model.source,
                dtype=compute.dtype,
                device=compute.device,
                grouped_kv=graph.grouped_kv,
                split_embedding=graph.split_embedding,
                progress=told,
            )
            self._open = (model.name, session)
        return self._open[1]

    def telling(self, model: ModelSpec) -> Progress:
        """Return a progress callback that names the model."""

        def told(done: int, total: int, what: str) -> None:
            if self.progress is not None:
                self.progress(done, total, f"{model.name}: {what}")

        return told

    @cached_property
    def about_task(self) -> dict[str, Any]:
        """Return what was noted of the prompt pairs."""
        found: dict[str, Any] = json.loads((self.store.folder / TASK).read_text("utf-8"))
        return found

    @property
    def task_name(self) -> str:
        """Return the task's name."""
        return str(self.about_task["name"])

    @cached_property
    def pairs(self) -> PromptPairs:
        """Return the prompt pairs every model gets."""
        from .patching.prompts.pair_files import read_pairs

        about = self.about_task
        noted = {key: about[key] for key in ("name", "seed", "bos_prepended", "origin")}
        return replace(read_pairs(self.store.folder / PROMPTS), **noted)

    # -- the evaluation file --------------------------------------------------------------------

    def evaluations(self) -> dict[str, Any]:
        """Return what was measured so far, by model."""
        try:
            document = json.loads((self.store.folder / EVALUATION).read_text("utf-8"))
            return dict(document["models"])
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def write_evaluation(self, models: Mapping[str, Any]) -> None:
        """Write what was measured, in the spec's order."""
        known = {m.name: models[m.name] for m in self.spec.models if m.name in models}
        document = {"format": "edgewise/evaluation", "version": 1, "models": known}
        write_text(self.store.path(EVALUATION), dump_document(document, rows=()))

    def tidy_evaluation(self) -> None:
        """Take models that are no longer in the spec out of the evaluation."""
        found = self.evaluations()
        if list(found) != [model.name for model in self.spec.models]:
            self.write_evaluation(found)
