"""Digests of files; those of large ones are remembered, and read again where size, times or inode are others."""

import contextlib
import functools
import hashlib
import os
import tempfile
from pathlib import Path

from pit_jax.files import content_digest
from pit_jax.paths import cache_folder

LARGE = 1 << 26  # bytes; what is smaller is read in less than a tenth of a second


def remembered_digest(file: Path) -> str:
    """sha256 of a file on this machine's disk, in hex."""
    found = file.stat()
    return _digest(file.resolve(), (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))


@functools.cache
def _digest(file: Path, state: tuple[int, ...]) -> str:
    note = cache_folder() / "digests" / hashlib.sha256(repr([str(file), state]).encode()).hexdigest()[:24]
    with contextlib.suppress(OSError):
        return note.read_text()
    digest = content_digest(file)
    if state[0] >= LARGE:
        with contextlib.suppress(OSError):  # a home that cannot be written: the file is read again next time
            note.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as beside:
                beside.write(digest)
            os.replace(beside.name, note)
    return digest
