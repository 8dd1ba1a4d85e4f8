"""The toy run shared by the tests of training."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pit_jax.parallel.mesh import mesh_of
from pit_jax.training.state import TrainState


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """toy.py beside this file, as a module."""
    spec = importlib.util.spec_from_file_location("training_toy", Path(__file__).with_name("toy.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def trained(toy: ModuleType) -> tuple[TrainState, TrainState]:
    """A state after two steps on eight devices (never donated again), and its shardings."""
    state, sharding, step = toy.toy_start(mesh_of(2, 2, 2))
    for index in range(2):
        state, _ = step(state, toy.toy_batch(index))
    return state, sharding
