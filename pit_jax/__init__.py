"""pit_jax: train a language model to improve a given answer, from preference pairs alone, and use it.

import pit_jax

pit = pit_jax.load("runs/tiny")
better = pit.improve(prompts, answers)
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pit_jax.api import Pit

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(run: str | os.PathLike[str]) -> "Pit":
    """Open the workdir of a finished run, of a branch, or of one seed of several (runs/notes/seed-3).

    Models are read when they are first asked. Raises pit_jax.errors.UserError for a folder that is no run.
    """
    from pit_jax import api

    return api.load(run)
