"""Settings of the whole test run, made before JAX is imported."""

import os
import signal
from importlib import metadata

# The threads of SciPy's OpenBLAS, which is JAX's linear algebra on CPU, fight with XLA's; and with several workers on
# few cores, a thread pool per worker would make everything slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Most of the time of a test is compilation, which is half as long without optimisation. XLA_FLAGS= (nothing) tests what
# users run; .ci/run does so for a part. Flags come and go, and XLA dies of those that it does not know.
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")

# A shell starts jobs in the background with interrupts ignored, and processes inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture
def x64():
    """Double precision for one test: what oracles are compared in."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions: the one users run, and the one that shows whether errors are rounding."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(autouse=True, scope="module")
def _free_compiled_programs():
    """Each compiled program holds memory maps, whose number is limited per process: XLA crashes when they run out."""
    yield
    jax.clear_caches()
