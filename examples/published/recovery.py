"""Tell how much poison took and training gave back, in behaviour and edges. Run by hand: minutes.

    python examples/published/recovery.py poison-recover
The folder is what `edgewise run` made of poison-recover.toml. 95% intervals are over templates."""

import sys
from collections import defaultdict
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np

from edgewise import PromptPairs, make_task, open_model, open_split, read_circuit, read_spec
from edgewise.discovery.uncertainty.bootstrap import faithfulness_estimate, mean_estimate
from edgewise.graphs.circuit import Circuit
from edgewise.graphs.example_scores import clusters_of
from edgewise.graphs.files.example_scores import read_example_scores
from edgewise.patching.metrics.functions import as_metric
from edgewise.steps.comparison.scored import ScoredModel
from edgewise.workflow import make_runner

folder, draw = Path(*sys.argv[1:] or ["poison-recover"]), np.random.default_rng(0)
models = {one.name: one.source for one in read_spec(folder / "spec.toml").models}
files = {name: folder / "circuits" / f"{name}.json" for name in models}
circuits = {name: read_circuit(file).circuit for name, file in files.items()}
graph, metrics = circuits["base"].graph, [*map(as_metric, ("logit_diff", "accuracy"))]
tried = {"all": Circuit.full(graph), "none": Circuit.empty(graph), **circuits}
values, new, scores = {}, {}, {}  # [metrics, circuits, examples] twice; [examples, edges]
for name, source in models.items():
    split = open_split(session := open_model(source), "ioi", examples=24, test=24)
    drawn = make_task("ioi", tokenizer=session.loaded.tokenizer, examples=2000, seed=1).pairs
    far = (p for p in drawn if p.answers[0] % 3 == p.distractors[0] % 3 == 0)  # names, templates
    unseen = PromptPairs(tuple(p for p in far if int(p.group[4:]) > 7)[:48])  # not trained on
    values[name] = make_runner(session, split.test).measure_each([*tried.values()], metrics)
    new[name] = make_runner(session, unseen).measure_each([tried["all"]], metrics)
    tested = ScoredModel.read(folder / "examples" / f"{name}.safetensors", graph).scores.values
    scores[name] = np.concatenate([read_example_scores(files[name]).scores.values, tested])

for what, pairs, each in (("all new", unseen, new), ("held out", split.test, values)):
    groups = clusters_of(pairs.groups)
    for name, (logits, right) in each.items():
        print(what, name, mean_estimate(logits[0], groups).numbers, f"{right[0].mean():.3f}")
    for full in ("base", "amplified"):
        share = (each[name][0, 0] for name in (full, "recovered", "poisoned"))
        print(what, "recovered, of", full, faithfulness_estimate(*share, groups).numbers)
for name, (logits, _) in values.items():
    for circuit, kept in zip(tried, logits, strict=True):
        share = faithfulness_estimate(logits[0], kept, logits[1], groups)
        print(f"{circuit} in {name}: {kept.mean():.2f}, faithfulness", share.numbers)
both = clusters_of((*split.discovery.groups, *split.test.groups))  # each template twice
twice, shared = both.argsort(kind="stable").reshape(-1, 2), defaultdict(list)
for _ in range(100):  # two sets of prompts that share none, one of each template
    sets = draw.permuted(twice, axis=1).T
    means = {m: [np.abs(x[rows].mean(0, dtype=float)) for rows in sets] for m, x in scores.items()}
    top = {m: [each.argpartition(-200)[-200:] for each in two] for m, two in means.items()}
    for a, b in combinations_with_replacement(models, 2):
        shared[a, b].append(len(np.intersect1d(top[a][0], top[b][1])))
for pair, each in shared.items():
    print("shared of 200:", *pair, f"{np.mean(each):.0f}, {min(each)} to {max(each)}")
