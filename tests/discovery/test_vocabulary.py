"""With a large vocabulary the search's loss is the dense runner's, to float32's rounding."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from edgewise.discovery.registry import get_method
from edgewise.graphs.lift.lifting import describe
from edgewise.patching.incremental.search import IncrementalSearch
from edgewise.patching.run.runner import Runner
from tests.engine import tiny_pairs


@pytest.fixture(scope="module")
def runner() -> Runner:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40_000, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=24,
        initializer_range=0.1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.lm_head.weight.data += 4.0  # large logits: sums over the vocabulary round
    return Runner.create(describe(model), tiny_pairs(), metric="kl", batch_size=2)


def test_the_full_circuit_diverges_from_itself_by_nothing(runner: Runner) -> None:
    search = IncrementalSearch(runner)
    search.restart(runner.graph.reads)
    assert search.loss.value() == pytest.approx(0, abs=4e-6)


def test_the_loss_of_the_search_is_that_of_the_circuit(runner: Runner) -> None:
    found = get_method("acdc")(runner, threshold=0.01)
    assert found.circuit is not None and 0 < len(found.circuit) < runner.graph.edge_count
    assert found.notes["loss_search"] == pytest.approx(runner.loss(found.circuit), abs=1e-5)
    assert found.notes["vocabulary_products"] > 0
