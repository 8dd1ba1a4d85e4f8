"""TensorFlow and seqio, imported on first use, quietly and without an accelerator."""

import contextlib
import functools
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from pit_jax.terminal import tell


@functools.cache
def tensorflow_and_seqio() -> tuple[Any, Any]:
    """The two modules, imported on the first use, with accelerators hidden from TensorFlow."""
    with warnings.catch_warnings(), _native_stderr_held_back():
        warnings.simplefilter("ignore")  # deprecations inside the packages themselves
        import seqio
        import tensorflow as tf

        if tf.config.get_visible_devices("GPU"):
            tf.config.set_visible_devices([], "GPU")
    return tf, seqio


@contextlib.contextmanager
def _native_stderr_held_back() -> Iterator[None]:
    """Hold back what native code prints while TensorFlow starts (CPU features, no GPU); show it if the start fails."""
    sys.stderr.flush()
    stderr, said = os.dup(2), ""
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            said = held.read().decode(errors="replace")
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            tell(said, error=True, end="")
