"""The code of the package itself, named by its content."""

import functools
from pathlib import Path

from pit_jax import __version__
from pit_jax.files import digest_of, file_digest

PACKAGE = Path(__file__).resolve().parents[1]


@functools.cache
def package_code() -> str:
    """Version and digest of every source file of pit_jax: two runs of one text were made by one code."""
    sources = sorted(PACKAGE.rglob("*.py"))
    parts = (part for path in sources for part in (path.relative_to(PACKAGE).as_posix(), file_digest(path)))
    return f"{__version__} {digest_of(*parts)}"
