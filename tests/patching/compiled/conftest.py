"""Settings of the compiled engine's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    import jax as _jax  # noqa: F401
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True


class _Skipped(pytest.Module):
    """A file of tests that cannot be imported."""

    def collect(self) -> list[pytest.Item]:
        pytest.skip("JAX is not installed; make test installs it", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> _Skipped | None:
    """Skip each file, loudly, where JAX is not installed."""
    if INSTALLED:
        return None
    skipped: _Skipped = _Skipped.from_parent(parent, path=module_path)
    return skipped


@pytest.fixture(autouse=True, scope="session")
def _no_kept_programs() -> None:
    """Compile anew, whatever the user's cache folder holds; what is loaded once is no garbage."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    gc.collect()
    gc.freeze()  # tracing makes much garbage, and each search for it would pass through it all


@pytest.fixture(autouse=True)
def _few_programs() -> Iterator[None]:
    """Forget compiled programs before they fill the memory; neighbours share some."""
    import jax

    yield
    _TESTS.append(1)
    if len(_TESTS) % 16 == 0:
        jax.clear_caches()


_TESTS: list[int] = []
