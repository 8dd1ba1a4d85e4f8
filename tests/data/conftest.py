"""Property tests are judged by their properties: a busy machine must not fail them."""

from hypothesis import settings

from tests.world import make_mesh, world

__all__ = ["make_mesh", "world"]

settings.register_profile("data", deadline=None, max_examples=50)
settings.load_profile("data")
