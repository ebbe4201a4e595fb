"""Settings of the whole test run: few threads, no network hub, reproducible property tests."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.processors import workers

# Set before anything imports torch or transformers; workers and subprocesses inherit them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait leave others the processor
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

XLA_FLAGS = (
    "--xla_cpu_multi_thread_eigen=false",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_max_isa=SSE4_2",
)
"""Compile quickly what runs once; JAX reads them with its first program, whoever makes it."""
if XLA_FLAGS[0] not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *XLA_FLAGS)).strip()

settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

settings.register_profile(
    "fast", settings.get_profile(settings.get_current_profile_name()), max_examples=25
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="run the heart: a few cases of each test, no real model, nothing slow",
    )
    parser.addoption(
        "--fast-cases", type=int, default=3, help="with --fast: so many cases of each test at most"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let workers (pytest-xdist), which share the processors, compute with one thread each."""
    config.addinivalue_line(
        "markers", "slow: takes as long as hundreds of others; not in the heart"
    )
    shared = config.getoption("numprocesses", None) or "PYTEST_XDIST_WORKER" in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", "1" if shared else "2")
    if config.getoption("--fast"):
        settings.load_profile("fast")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use the processors that are allowed, by workers of as many threads as are asked for."""
    return workers(int(os.environ.get("OMP_NUM_THREADS") or 1))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --fast, keep a few cases of each test, the same ones every time."""
    if not config.getoption("--fast"):
        return
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        cases[item.nodeid.partition("[")[0]].append(item)
    kept = set()
    for group in cases.values():
        number = min(len(group), config.getoption("--fast-cases"))
        kept |= {group[i * len(group) // number] for i in range(number)}
    kept = {item for item in kept if not {"real", "slow"} & {m.name for m in item.iter_markers()}}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Undo what a command's `--threads` sets, which is of the process: results depend on it."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    yield
    if before is not None and sys.modules["torch"].get_num_threads() != before:
        sys.modules["torch"].set_num_threads(before)
