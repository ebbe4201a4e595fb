"""Settings of the whole test run: few threads, no network hub, reproducible property tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Set before anything imports torch or transformers; subprocesses inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")
