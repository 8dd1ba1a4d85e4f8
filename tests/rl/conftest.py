"""The tiny world for the rooms that RL is made of."""

from tests.world import context, make_mesh, place, world

__all__ = ["context", "make_mesh", "place", "world"]
