"""Tell how much poison took and training gave back, in behaviour and edges. Run by hand: minutes.

    python examples/published/recovery.py examples/adapters/ioi
The folder is what poison_recover.py made. Edges are scored on 24 prompt pairs, one of each
template; circuits, of the 200 largest |scores|, are run on 24 others. 95% intervals: of templates.
"""

import sys
from itertools import combinations, combinations_with_replacement

import numpy as np

from edgewise import Circuit, PromptPairs, get_method, make_task, open_model, open_split
from edgewise.discovery.uncertainty.bootstrap import faithfulness_estimate, mean_estimate
from edgewise.discovery.uncertainty.paired import paired_test
from edgewise.graphs.example_scores import clusters_of
from edgewise.patching.metrics.functions import as_metric
from edgewise.workflow import make_runner

folder, metrics = sys.argv[1], [*map(as_metric, ("logit_diff", "accuracy"))]
runners, each, scores, circuits = {}, {}, {}, {}
for name in ("base", "poisoned", "recovered", "amplified"):
    session = open_model("smollm2-135m" if name == "base" else f"{folder}/{name}")
    split = open_split(session, "ioi", examples=24, test=24)
    drawn = make_task("ioi", tokenizer=session.loaded.tokenizer, examples=2000, seed=1).pairs
    new = (p for p in drawn if p.answers[0] % 3 == p.distractors[0] % 3 == 0)  # names, templates
    unseen = PromptPairs(tuple(p for p in new if int(p.group[4:]) > 7)[:32])  # never trained on
    for what, pairs in (("all new", unseen), ("held out", split.test)):
        runners[name] = make_runner(session, pairs, metric="logit_diff")
        whole, groups = Circuit.full(runners[name].graph), clusters_of(pairs.groups)
        each[name, what], right = runners[name].measure_each([whole], metrics)[:, 0]
        print(name, what, mean_estimate(each[name, what], groups).numbers, right.mean(), flush=True)
        if name in ("recovered", "amplified"):  # 0 as poisoned, 1 as the base
            share = (each[one, what] for one in ("base", name, "poisoned"))
            print(name, what, "of the base:", faithfulness_estimate(*share, groups).numbers)
    on = make_runner(session, split.discovery, metric="logit_diff")
    found = get_method("eap-ig")(on, per_example=True).examples
    scores[name], circuits[name] = found.values.astype(float), found.mean().top(200)

draw = np.random.default_rng(0)
halves = [np.split(draw.permutation(24), 2) for _ in range(100)]  # other prompts and templates
for a, b in combinations_with_replacement(scores, 2):
    top = [
        [abs(x[half[i]].mean(0)).argpartition(-200)[-200:] for half in halves]
        for i, x in enumerate((scores[a], scores[b]))
    ]
    shared = [len(np.intersect1d(*two)) for two in zip(*top, strict=True)]
    told = np.mean(shared), min(shared), max(shared)
    print(a, b, "share", len(circuits[a] & circuits[b]), "and of halves:", *told)
delta = 0.005 * max(abs(np.mean(one)) for one in each.values())
for a, b in combinations(scores, 2):
    tested = paired_test(scores[a], scores[b], delta=delta)
    print(a, b, tested.changed.sum(), (tested.changed & (tested.mean_a * tested.mean_b < 0)).sum())
tried = {"all": whole, "none": Circuit.empty(whole.graph), **circuits}
for name, runner in runners.items():
    logits = dict(zip(tried, runner.measure_each([*tried.values()])[0], strict=True))
    for circuit, kept in logits.items():
        share = faithfulness_estimate(logits["all"], kept, logits["none"], groups)
        print(f"{circuit} in {name}: {kept.mean():.2f}, faithfulness", share.numbers, flush=True)
