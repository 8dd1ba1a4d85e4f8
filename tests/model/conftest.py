"""The tiny world and the plain forward pass, shared by the tests of the model."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.world import world

__all__ = ["plain", "world"]


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """plain_forward.py beside this file, as a module."""
    spec = importlib.util.spec_from_file_location("plain_forward", Path(__file__).with_name("plain_forward.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
