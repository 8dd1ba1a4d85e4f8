"""A strict environment for every test: eight CPU devices, no implicit dtype or rank promotion, no network.

The variables are set before jax is imported. Compiled programs are kept for the length of one run
in a folder that the xdist workers and the subprocesses of tests share.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs that run once or twice gain nothing from optimising: like this they compile in half of the time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
os.environ["NPROC"] = "64"  # threads of XLA, for the collectives of eight devices: hosts.enough_threads
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred processes import the package: it is compiled once
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="pit_jax-compiled-")

import hypothesis
import jax
import pytest

from tests.object_store import bucket, object_store

__all__ = ["bucket", "object_store"]

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# A loaded machine is not a failure, and the same examples come back on every run.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs first, shared out: xdist gives each of two workers one half of the list, and lets the one that ends
    sooner take from the tail of the other, where only short tests should stand.

    The second worker begins with 300 short tests (two minutes), so that the run that all others go on from is there
    when it needs one.
    """
    runs = [item for item in items if "end_to_end" in item.path.parts]
    short = [item for item in items if "end_to_end" not in item.path.parts]
    first = [item for item in runs if item.path.name <= "test_howto.py"]  # two thirds of their time, or so
    second = [item for item in runs if item.path.name > "test_howto.py"]
    before = max(len(items) // 2 - len(first), 0) + 300
    items[:] = [*first, *short[:before], *second, *short[before:]]


@pytest.fixture(autouse=True)
def keeping() -> Iterator[None]:
    """A command that a test runs in this process keeps no programs of eight devices: the tests after it do."""
    yield
    if not jax.config.values["jax_enable_compilation_cache"]:
        jax.config.update("jax_enable_compilation_cache", True)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


def pytest_unconfigure(config: pytest.Config) -> None:
    """The process that made the folder of compiled programs removes it."""
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
