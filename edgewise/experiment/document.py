"""An experiment as a TOML file: which models, which task, which method, what to measure and draw.

    [experiment]                      # optional
    name = "ioi"                      # default: the file's name
    description = "…"

    [[models]]                        # one or more; the first is what the others are compared with
    source = "smollm2-135m"           # what --model takes; paths are relative to this file
    name = "base"                     # names the model's files; default: from the source

    [task]
    name = "ioi"                      # a built-in task, or: file = "pairs.jsonl"
    examples = 32                     # default 64; of a file: all, or half if it has 64 or more
    test = 32                         # so many others are held out; default: as many; 0: none
    seed = 0                          # of a built-in task, as are its own options, or of samples
    bos = true                        # force a beginning-of-sequence token, or (false) none
    answers = "first"                 # how those of several tokens are taken: this, or "whole"
    system = "…"                      # of a file of chat: a system message before the others
    continued = "…"                   # of a file of chat: how the assistant's answer begins
    spans = false                     # tell named spans of the prompts' positions apart

    [graph]                           # optional
    grouped_kv = false
    split_embedding = false
    try_family = "llama"              # describe a model of an unknown type as one of this family

    [discovery]                       # optional
    method = "eap-ig"                 # and the method's own options, such as
    steps = 5
    metric = "logit_diff"             # a name or an expression
    ablation = "resample"
    target = 0.9                      # which edges to keep: this, or faithfulness, top, above
    signed = true                     # largest score; false: largest absolute score
    connected = true                  # count only edges on ways from the embedding to the logits
    greedy = false                    # with top: edges join one by one, from the logits back
    stable = 0.9                      # of these, only edges that resampled prompts keep too
    per_example = true                # write the scores on each example too
    level = "edge"                    # what is scored and kept: single edges, or "node", "neuron"
    mlps = [9]                        # at level neuron: the layers whose hidden units are nodes

    [evaluation]                      # optional
    metrics = ["logit_diff", "kl"]    # default: the discovery's and kl
    curve = false                     # faithfulness by size, CPR and CMD
    random = 20                       # random circuits of as many edges, beside the circuit
    tests = false                     # five tests of the circuit, each with its p-value
    draws = 99                        # random circuits and edges that the tests draw
    worst = false                     # the worst pairing of prompts and gates that are found
    control = false                   # repeat the discovery in a copy with its weights redrawn
    rivals = 2                        # further circuits, found apart from those before
    penalty = 1.0                     # of an edge that one before has: its worth / (1 + penalty)
    draw_seed = 0                     # what decides the draws of all of these

    [comparison]                      # optional
    paired = true                     # test every edge on the same prompts in both models
    delta_share = 0.005               # the smallest change that matters, of the whole behaviour;
                                      # or delta = 0.1, in units of the metric
    level = 0.05                      # of q-values: the share of false changes that is accepted
    controls = true                   # look for changes where nothing has changed
    function = true                   # measure what the edges that changed do in both models
    noise_floor = 8                   # find each circuit so often again, on other prompts
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
    engine = "auto"                   # or torch, or jax: what computes

Everything is checked before any model is loaded, and all problems are reported at once: what only
a file can get wrong (tables, keys, paths) here, values by the parts themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from ..graphs.calls.typed import typed
from ..graphs.errors import EdgewiseError, SpecError, unknown
from ..graphs.files.exchange.kinds import in_words
from ..graphs.files.reading import SETTINGS_BYTES, at_home, is_there, read_text
from .errors import Built, problems, shown
from .spec import TABLES, DiscoverySpec, Experiment, ModelSpec, Selection, default_name
from .task import CHOICES_OF_PAIRS, TaskSpec, draws_pairs
from .toml import INSTEAD, Table, parse_toml

if TYPE_CHECKING:
    from ..discovery.registry import Method

SELECTION = Selection.names()


@typed
def read_spec(path: str | Path) -> Experiment:
    """Read and check an experiment's file; its relative paths start from its own folder.

    Raises:
        SpecError: no TOML (with the place), or wrong in what it says (all problems are listed).
    """
    path = Path(path)
    if other := in_words(path):
        raise SpecError(f"{path} is no experiment's TOML file: it is {other}. {INSTEAD}")
    text = read_text(path, "an experiment's TOML file", SETTINGS_BYTES, SpecError)
    text = text.removeprefix("\ufeff")
    return parse_spec(text, folder=path.parent, name=path.stem, source=str(path))


def parse_spec(
    text: str, *, folder: str | Path = ".", name: str = "experiment", source: str = "the spec"
) -> Experiment:
    """Read and check an experiment given as text; relative paths start from the folder.

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
    >>> spec.base.name, spec.discovery.options["steps"], spec.evaluation.metrics
    ('smollm2-135m', 5, ('logit_diff', 'kl'))
    """
    reader = _Reader(Path(folder))
    fields, wrong = reader.fields(parse_toml(text, source), name), reader.problems
    try:
        found = TypeAdapter(Experiment).validate_python(fields)
    except ValidationError as error:
        wrong += map(str, problems(error, Built("Experiment", (), declared=True)))
    if len(wrong) == 1:
        raise SpecError(f"{source}: {wrong[0]}")
    if wrong:
        lines = [problem.replace("\n", "\n    ") for problem in wrong]
        raise SpecError(f"{source} has {len(lines)} problems:" + "\n  - ".join(["", *lines]))
    return found


class _Reader:
    """Turns tables into the fields of the parts, and notes what only a file can get wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def fields(self, document: Table, name: str) -> dict[str, object]:
        about = {"name": name, **self.table(document, "experiment")}
        found = self.known("key of [experiment]", about, ["name", "description"])
        if "models" in document:
            found["models"] = self.models(document["models"])
        else:
            self.problems.append("[[models]] is missing; name at least one model by its source.")
            found["models"] = (ModelSpec.at("missing"),)
        for key in TABLES:
            found[key] = getattr(self, key, self.plain)(key, self.table(document, key))
        self.known("table", document, ["experiment", "models", *TABLES])
        return found

    def table(self, document: Table, key: str) -> Table:
        """Return a table; one that is missing is empty."""
        value = document.get(key, {})
        if isinstance(value, dict):
            return value
        self.problems.append(f"{key} is {shown(value)}; accepted: a table, [{key}].")
        return {}

    def known(self, what: str, table: Table, accepted: Iterable[str]) -> dict[str, object]:
        """Return what stands under accepted keys, and note all others."""
        names = list(dict.fromkeys(accepted))
        self.problems += [str(unknown(what, key, names)) for key in table if key not in names]
        return {name: table[name] for name in names if name in table}

    def plain(self, key: str, table: Table) -> dict[str, object]:
        return self.known(f"key of [{key}]", table, TABLES[key].declared())

    def models(self, value: object) -> object:
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            accepted = "tables, each headed [[models]]"
            self.problems.append(f"models is {shown(value)}; accepted: {accepted}.")
            return (ModelSpec.at("missing"),)
        models = []
        for number, table in enumerate(value, start=1):
            found = self.known(f"key of [models[{number}]]", table, ["source", "name"])
            source = found.get("source")
            if isinstance(source, str) and source.strip():
                try:
                    found["source"] = whole_source(source, self.folder)
                except EdgewiseError as error:
                    self.problems.append(f"models[{number}].source: {error}")
            models.append({"name": default_name(str(source)), **found})
        return models

    def task(self, key: str, table: Table) -> dict[str, object]:
        from ..patching.tasks import TASKS

        file, own = table.get("file"), [name for name in TaskSpec.declared() if name != "options"]
        if file is None:
            task = TASKS.get(str(table.get("name")))
            among = [task] if task else TASKS.values()
            options = [option.name for one in among for option in one.options]
            return self.folded(key, table, own, [*options, *CHOICES_OF_PAIRS], task is not None)
        if "name" in table:
            self.problems.append("task.name and task.file are both given; accepted: one of them.")
        if isinstance(file, str) and file.strip():
            path = self.folder / at_home(file)
            if not os.path.isfile(path):
                self.problems.append(
                    f"task.file: '{path}' does not exist; expected a file of prompt pairs."
                )
            file = str(path)
        if "seed" in table and not (isinstance(file, str) and draws_pairs(file)):
            self.problems.append(
                "task.seed belongs to built-in tasks and to files whose pairs are formed from "
                "what stands in them; this file's pairs are fixed, leave it out."
            )
        found = self.known(f"key of [{key}]", table, own)
        found.pop("name", None)
        return {**found, "file": file}

    def discovery(self, key: str, table: Table) -> dict[str, object]:
        from ..discovery.registry import methods, scoring_method

        known = methods()
        table = dict(table)
        chosen = table.setdefault("method", scoring_method().name)
        method = known.get(str(chosen))
        own = [name for name in DiscoverySpec.declared() if name not in ("options", "select")]
        own += SELECTION
        if method is not None:
            self.check_selection(table, method)
            for name in [name for name in table if name not in (*own, *method.options)]:
                owners = [one.name for one in known.values() if name in one.options]
                if owners:
                    del table[name]
                    self.problems.append(
                        f"discovery.{name} is an option of method {' and '.join(owners)}, not of "
                        f"'{method.name}'; leave it out, or change the method."
                    )
        options = [o for one in ([method] if method else known.values()) for o in one.options]
        found = self.folded(key, table, own, options, method is not None)
        select = {name: found.pop(name) for name in SELECTION if name in found}
        return {**found, "select": select}

    def folded(
        self, key: str, table: Table, own: list[str], options: list[str], keep: bool
    ) -> dict[str, object]:
        """Put options, which stand beside a table's own keys, under `options`, or leave them."""
        found = self.known(f"key of [{key}]", table, [*own, *options])
        given = {name: found.pop(name) for name in options if name in found}
        return {**found, "options": given if keep else {}}

    def check_selection(self, table: dict[str, object], method: Method) -> None:
        """Note a selection that does not go with the method, and go on without it.

        A method that scores edges keeps the usual ones where nothing is said.
        """
        given = [key for key in SELECTION if table.get(key, False) is not False]
        ways = [key for key in given if key in Selection.ways()]
        if method.selects and given:
            self.problems.append(
                f"discovery.{given[0]} chooses edges by their scores, but method "
                f"'{method.name}' decides itself which edges to keep; leave it out."
            )
        elif not method.selects and not given:
            table |= Selection.usual().as_dict()
            return
        elif not method.selects and len(ways) != 1:
            found = f"{' and '.join(ways)} are both given" if ways else "nothing says how many"
            self.problems.append(
                f"discovery: method '{method.name}' gives every edge a score, and {found} to keep; "
                "accepted: one of top (a number of edges), above (a smallest score), faithfulness "
                "or target (such as 0.9)."
            )
        else:
            return
        for key in given:
            table.pop(key, None)


def whole_source(source: str, folder: Path) -> str:
    """Return a model's reference that means the same from the working directory."""
    from ..graphs.load.adapters import base_reference
    from ..graphs.load.builtin.models import BUILT_IN
    from ..graphs.load.references import Form, find

    if source in BUILT_IN:
        return source
    path = folder / at_home(source)
    if is_there(path):
        if (found := find(str(path))).form is Form.ADAPTER:
            base_reference(found.path)
        return str(path)
    if source.startswith(("/", "./", "../", "~", ".\\", "..\\")) or source.endswith(".gguf"):
        raise SpecError(f"'{path}' does not exist; paths start from the spec's folder.")
    if is_there(source):
        raise SpecError(
            f"'{source}' exists in the working directory but not beside the spec, from "
            f"where paths start; write the path from '{folder}', or the whole path."
        )
    return source
