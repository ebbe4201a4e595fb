"""Declare a metric as an expression, look at its derivative, and find a circuit with it.

Expressions are parsed, never evaluated as code; a wrong one is refused with the place marked.
(With one answer and one distractor, METRIC is the logit difference: the softmax cancels.)
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from edgewise import EdgewiseError
from edgewise.patching.metrics.expressions import expression
from edgewise.workflow import Selection, discover, evaluate, open_model, open_task

METRIC = "log(p(answer)) - log(p(distractor))"

print(f"{METRIC} is {expression(METRIC)}")
for quantity, slope in expression("p(answer) / p(distractor)").gradient().items():
    print(f"the slope of p(answer) / p(distractor) in {quantity}: {slope}")
try:
    expression("log(p(answer)) - log(q(distractor))")
except EdgewiseError as error:
    print(error)

torch.manual_seed(0)
shape = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 2}
shape |= {"initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 0}
session = open_model(GPT2LMHeadModel(GPT2Config(**shape)).eval())
pairs, _ = open_task(session, "induction", examples=16, seed=0)
for metric in (METRIC, "minimize: -log(p(answer))", "logit_diff"):
    found = discover(session, pairs, method="eap-ig", metric=metric, select=Selection(top=20))
    value = found.evaluation.value_circuit
    kl = evaluate(session, found.file, pairs, metric="kl").evaluation.value_circuit
    print(f"{metric}: the 20 strongest edges give {value:.3f}; KL from the model {kl:.3f}")
