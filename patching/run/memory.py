"""How much memory each piece of work may take on the device of its model.

Everything that is computed for many examples, points, circuits or questions is cut into pieces, and
a budget tells how large a piece may be. It is read once, when a runner is made.

* *On a processor* it is `LAPTOP`, whatever the machine: sizes at which pieces fit a laptop beside
  everything else and are large enough for matrix products to be fast.
* *On a graphics card* every launch of a small kernel costs as much as some billion operations, so
  pieces are as large as fits. Each bound is a share (`SHARES`) of what is free there when the
  runner is made: the device's free memory, plus what torch has set aside for itself and does not
  use. The model is there by then. All shares that one job needs together, with what it makes on the
  way, stay under three quarters of that.
* *JAX beside torch*: each keeps an arena of its own on the card. JAX is started so that its arena
  grows with what it needs (it would take three quarters of the card at once); what it may take is
  the least of its own limit and of what is free on the card or in its arena.
* *Any other accelerator* gets the same shares if torch can tell how much is free there (a limit
  and what is taken of it), else `LAPTOP`.

| bound | of what |
| --- | --- |
| `cache` | all chunks' runs together, that they are kept rather than made anew |
| `batch` | all senders' deltas of one chunk's examples: how many examples a chunk has |
| `run` | the streams of circuits that run together; what nodes write may take ten times that |
| `tape` | what the points of one gradient pass keep for the way back (`attribution`) |
| `gates` | what every port keeps for a gradient in each edge's gate (`port_gradients`) |
| `questions` | what the incremental runner's questions of one pass change |
| `logits` | the logits of questions over the whole vocabulary, or over a block of it |
| `head` | the rows of the vocabulary that bounds of a normaliser add up one by one |
| `patterns` | what a batch of examples keeps for the heads' attention patterns (`roles`) |
| `program` | what a run of a compiled program takes, of what JAX has free (`compiled`) |
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from ...graphs.lift.lifted import LiftedModel


@dataclass(frozen=True)
class Budget:
    """Bytes that each kind of piece may take; see the module."""

    cache: int
    batch: int
    run: int
    tape: int
    gates: int
    questions: int
    logits: int
    head: int
    patterns: int
    program: int

    @staticmethod
    def of(model: LiftedModel) -> Budget:
        """Return what work on a model may take now; on several devices, as on the fullest one."""
        places = {model.device, model.unembed.weight.device, *(b.device for b in model.blocks)}
        known = [free for one in places if (free := free_bytes(one)) is not None]
        return Budget.share(min(known)) if known else LAPTOP

    @staticmethod
    def share(free: int) -> Budget:
        """Share out the free memory of a graphics card.

        >>> Budget.share(64 << 30).batch >> 30
        8
        """
        parts = (free // getattr(SHARES, one.name) for one in fields(Budget))
        return Budget(*parts)


LAPTOP = Budget(
    cache=2 << 30,
    batch=1 << 28,
    run=1 << 29,
    tape=1 << 29,
    gates=1 << 30,
    questions=1 << 28,
    logits=1 << 30,
    head=1 << 28,
    patterns=1 << 28,
    program=1 << 29,
)
SHARES = Budget(
    cache=4,
    batch=8,
    run=64,
    tape=8,
    gates=8,
    questions=16,
    logits=16,
    head=64,
    patterns=8,
    program=2,
)
"""One part in how many of the free memory each bound is, on a graphics card."""


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory is free on a graphics card; None if it is none, or cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + max(0, kept))
    if device.type == "mps":
        limit, taken = torch.mps.recommended_max_memory(), torch.mps.driver_allocated_memory()
        return max(0, int(limit - taken))
    if device.type == "xpu":
        free, _ = torch.xpu.mem_get_info(device)
        return int(free)
    return None


PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
"""The variable that says whether JAX takes most of a card as soon as it starts."""


def share_the_card() -> None:
    """Have JAX leave memory to torch: to be called before it starts.

    A user's own setting is kept, and a JAX that has started is left as it is.
    """
    bridge = sys.modules.get("jax._src.xla_bridge")
    if not getattr(bridge, "_backends", None):
        os.environ.setdefault(PREALLOCATE, "false")


def free_for_jax(stats: Mapping[str, int], number: int) -> int:
    """Return how many bytes JAX can take on the card of this number; `stats`: what it says itself.

    What torch has set aside there and does not use is given back first.
    """
    used = stats["bytes_in_use"]
    own = stats["bytes_limit"] - used
    if not torch.cuda.is_available():
        return own
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(number)
    return max(0, min(own, int(free) + stats.get("pool_bytes", used) - used))
