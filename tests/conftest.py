"""What all tests share: each file begins without the programs that XLA compiled for the files before it."""

import gc
import sys

import pytest


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
