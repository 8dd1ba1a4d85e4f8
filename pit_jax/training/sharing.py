"""An array that stands in several places of a program's arguments is one argument of it, put in its places inside.

Models over one frozen backbone are trees with the same arrays in them. A compiler that is given those trees counts, and
may copy or reshard, the backbone once for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Places:
    """Where each of several distinct arrays stands in a tree; hashable, so that programs can be compiled for it."""

    structure: Any
    indices: tuple[int, ...]

    def fill(self, arrays: Any) -> Any:
        """The tree with these arrays."""
        return jax.tree.unflatten(self.structure, [arrays[index] for index in self.indices])


def distinct(tree: Any) -> tuple[list[Any], Places]:
    """The arrays (or ShapeDtypeStructs) of a tree, each object once, in the order of their first places; the places."""
    leaves, structure = jax.tree.flatten(tree)
    known: dict[int, int] = {}
    indices = tuple(known.setdefault(id(leaf), len(known)) for leaf in leaves)
    first = {index: leaf for index, leaf in zip(reversed(indices), reversed(leaves), strict=True)}
    return [first[index] for index in range(len(known))], Places(structure, indices)


class SharedJit:
    """jax.jit of a function of trees of arrays, of which no array is handed over twice.

    It is compiled once for each set of shapes and places, as jax.jit is for each set of shapes.
    """

    def __init__(self, function: Callable[..., Any]):
        def program(places: Places, arrays: list[Any]) -> Any:
            return function(*places.fill(arrays))

        self._program = jax.jit(program, static_argnums=0)

    def __call__(self, *args: Any) -> Any:
        arrays, places = distinct(args)
        return self._program(places, arrays)

    def trace(self, *args: Any) -> Any:
        """The traced program of arguments like these, as jax.jit's."""
        arrays, places = distinct(args)
        return self._program.trace(places, arrays)
