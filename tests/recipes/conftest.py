"""The tiny world for the recipes."""

from tests.world import context, make_mesh, place, world

__all__ = ["context", "make_mesh", "place", "world"]
