"""digests.py: a file's sha256, read once as long as the file is the same."""

import hashlib
import os
from pathlib import Path

import pytest

from pit_jax import digests
from pit_jax.digests import remembered_digest


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where digests are remembered."""
    monkeypatch.setattr(digests, "LARGE", 4)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pit_jax" / "digests"


def test_a_large_file_is_read_once(notes: Path, tmp_path: Path) -> None:
    """By this process and by later ones, however it is called; and again once its content may be another."""
    file, link = tmp_path / "weights", tmp_path / "link"
    file.write_bytes(b"12345")
    link.symlink_to(file)
    assert remembered_digest(file) == remembered_digest(link) == sha256(b"12345")
    (note,) = notes.iterdir()
    digests._digest.cache_clear()
    note.write_text("what was found then")
    assert remembered_digest(file) == "what was found then"
    before = file.stat()
    file.write_bytes(b"54321")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert remembered_digest(file) == sha256(b"54321"), "the same size, and a time that was put back"


def test_small_files_and_homes_that_cannot_be_written(notes: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"123")
    assert remembered_digest(file) == sha256(b"123") and not notes.exists()
    notes.parent.parent.write_text("no folder")
    file.write_bytes(b"12345")
    assert remembered_digest(file) == sha256(b"12345")
