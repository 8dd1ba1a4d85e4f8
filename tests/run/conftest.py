"""The tiny world for what a run leaves on disk."""

from tests.world import context, make_mesh, place, world

__all__ = ["context", "make_mesh", "place", "world"]
