"""What all tests share: each file begins without the programs that XLA compiled for the files before it."""

import gc
import os
import sys
import tempfile

import pytest


def pytest_configure(config):
    """What XLA compiles in one test is kept for all files, workers and child processes of the run, and no longer."""
    if hasattr(config, "workerinput") or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    kept = tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True)
    config.add_cleanup(kept.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = kept.name
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_are_let_go():
    """A compiled program keeps several memory maps, and Linux gives a process 65,530: thousands of programs later the
    next compilation crashes."""
    yield
    if "jax" in sys.modules:
        import jax

        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def quick_compilation():
    """Compile without most optimisations: for networks this small that is the longer part of the time."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
