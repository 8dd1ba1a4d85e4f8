"""Files that are whole or not there: the one place that writes, and reads back, what a run leaves on disk.

A file is written beside its place, forced to disk (fsync) and renamed; a folder is filled beside its place and
renamed. Whoever reads, or comes after a kill, finds the old content or the new one. In an object store (paths.py) one
object is whole by itself, and of a folder the marker is put last.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec

from pit_jax import paths
from pit_jax.errors import UserError
from pit_jax.paths import is_remote, scratch_folder

Row = dict[str, Any]
PROBE_BYTES = 1 << 20  # enough for a full disk to refuse it


class _Writer:
    here = True


def leave_writing_to_main() -> None:
    """Of several processes that share a disk only main writes: here every function that would, does nothing."""
    _Writer.here = False


def write_text(path: Path, text: str) -> None:
    """`text` as the content of `path`, whose folder is made where it is missing. UserError where it cannot be."""
    if not _Writer.here:
        return
    if is_remote(path):
        paths.put(path, text.encode())
        return
    with cannot_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.tmp")
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)


def write_json(path: Path, content: Any) -> None:
    """As `write_text`, in JSON. TypeError (nothing is written) for what JSON cannot hold."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """As `write_text`, one JSON object a line."""
    write_text(path, "".join(_line(row) for row in rows))


def append_jsonl(path: Path, rows: Iterable[Row]) -> None:
    """Add lines in one write: after a kill the last of them may be cut off, which `read_jsonl` leaves out."""
    if not _Writer.here:
        return
    lines = "".join(_line(row) for row in rows).encode()
    if is_remote(path):
        paths.append(path, lines)
        return
    with cannot_write(path), path.open("ab", buffering=0) as file:
        file.write(lines)
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `target` (and of what it holds) when nothing went wrong."""
    if not _Writer.here:
        with tempfile.TemporaryDirectory() as unused:
            yield Path(unused)
        return
    if is_remote(target):
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
            paths.remove(target)
            paths.upload(Path(name), target)
        return
    with cannot_write(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target) as partial:
            yield partial
            partial.chmod(0o755)  # mkdtemp's folder is the owner's alone
            for path in partial.rglob("*"):
                if path.is_file():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _sync_folder(target.parent)


def check_writable(folder: Path) -> None:
    """UserError unless `folder` is there, or can be made, and takes a file: found out before anything is computed."""
    if not _Writer.here:
        return
    if is_remote(folder):
        probe = folder / f".probe-{os.getpid()}"
        paths.put(probe, b"")
        paths.remove(probe)
        return
    with cannot_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with scratch_folder(folder / "probe") as scratch, (scratch / "file").open("wb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def cannot_write(path: Path) -> Iterator[None]:
    """OSError inside becomes a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"cannot write {path}: {why}; free space there, change its rights or pass another --workdir"
        ) from error


def read_json(
    path: Path, kind: Any = Any, *, cure: str = "delete the file and run the stage that wrote it again"
) -> Any | None:
    """The content of a JSON file, None where there is none.

    Raises:
        UserError: it is not JSON, or not of the type `kind` (of a TypedDict other keys are free); ends with the `cure`.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        msgspec.convert(content, kind)
    except (ValueError, RecursionError) as error:
        asked = "what a stage writes" if isinstance(error, msgspec.ValidationError) else "JSON"
        raise UserError(f"{path}: asked for {asked}, found {error or 'an empty file'}; {cure}") from error
    return content


class _Metrics(TypedDict):
    step: int
    phase: str
    time: NotRequired[float]


def read_metrics(path: Path) -> list[Row]:
    """The rows of a training's metrics.jsonl. As `read_jsonl`."""
    return read_jsonl(path, _Metrics)


def read_jsonl(path: Path, kind: Any = Any) -> list[Row]:
    """The objects of a JSONL file, [] where there is none. A last line that a kill cut off is left out.

    Raises:
        UserError: a finished line is not a JSON object, or not of the type `kind`; the message names the line.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    lines = path.read_bytes().decode(errors="replace").split("\n")  # other breaks may stand inside a text
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            msgspec.convert(row, kind)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {number}: asked for a JSON object, found {line[:80]!r} ({error}); mend or remove it"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: asked for a JSON object, found {type(row).__name__}; remove it")
        rows.append(row)
    return rows


def digest_of(*parts: str | bytes) -> str:
    """Twelve hex digits of sha256 that name `parts`, in their order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()[:12]


def file_digest(path: Path) -> str:
    """Twelve hex digits of sha256 that name the content of a file."""
    return content_digest(path)[:12]


def content_digest(path: Path) -> str:
    """All 64 hex digits of sha256 of the content of a file: two that differ are told apart, made on purpose or not."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _sync_folder(folder: Path) -> None:
    """Force a rename inside `folder` to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
