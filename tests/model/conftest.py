"""The tiny world and the plain forward pass, shared by the tests of the model."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from pit_jax.data.features import Example
from tests.world import World, make_mesh, world

__all__ = ["make_mesh", "plain", "world"]


@pytest.fixture(scope="module")
def examples(world: World) -> list[Example]:
    """Random ones, and the corners: empty answers, equal answers."""
    corners = [Example([9], [3, 9], [], [7, 8]), Example([9], [3], [7, 8], []), Example([8], [3, 8], [7], [7])]
    return [*world.examples(5), *corners]


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """plain_forward.py beside this file, as a module."""
    spec = importlib.util.spec_from_file_location("plain_forward", Path(__file__).with_name("plain_forward.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
