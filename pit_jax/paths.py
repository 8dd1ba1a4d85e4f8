"""Where files lie: on a disk (pathlib.Path), or in an object store behind the same methods (gs://, etils.epath.Path).

An object appears whole or not at all, and is not renamed, appended to or mapped into memory; there are no folders but
what the names of objects spell. What needs more than that is kept, or made, on this machine's disk (`local`, `upload`).
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pit_jax.errors import UserError

STORE = "gs://"
DONE = "done.json"  # of a folder, put last and removed first
METRICS = "metrics.jsonl"  # of a training
_SCRATCH = set[str]()  # names of this process's `scratch_folder`s: one that a killed process left may bear its number
os.environ.setdefault("EPATH_USE_TF", "false")  # else epath imports TensorFlow for what gcsfs does


def to_path(text: str | os.PathLike[str]) -> Path:
    """A path on a disk, or in an object store; a leading ~ is the home folder, which shells leave behind `=`.

    Raises:
        UserError: another scheme than gs://, one slash where two belong, no bucket, a store that cannot be reached,
            no package to reach it with, or the home folder of nobody.
    """
    name = os.fspath(text)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", name)
    if scheme is None:
        expanded = os.path.expanduser(name)
        if expanded.startswith("~"):
            raise UserError(f"{name}: nobody here has the home folder {name.split('/')[0]}; write the whole path")
        return Path(expanded)
    bucket = re.match(r"gs://([^/]+)", name)
    if bucket is None:
        raise UserError(
            f"{name}: asked for a path on a disk, or for {STORE}BUCKET/NAME in an object store (as a text: pathlib "
            f"joins its slashes), found {scheme[0]}"
        )
    _reach(bucket[1])
    from etils import epath

    return epath.Path(name.rstrip("/"))


def is_remote(path: Path) -> bool:
    """Whether a path of `to_path` lies in an object store."""
    return os.fspath(path).startswith(STORE)


def resolved(path: Path) -> Path:
    """The path from the root, links followed; an object's name has neither."""
    return path if is_remote(path) else path.resolve()


def files_below(path: Path) -> list[Path]:
    """Every file of a folder and of those in it, in order."""
    if not is_remote(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    return sorted(path / name for name in _objects(path) if name)


def local(path: Path, *, but: Sequence[str] = ()) -> Path:
    """The same file or folder on this machine's disk, where it can be mapped into memory.

    Objects are copied once, into `cache_folder` below a name made of theirs, their sizes and their generations: what
    has changed in the store is copied anew. Files whose names end like one of `but` are left out.

    Raises:
        UserError: there is no such object, the store cannot be reached, or the disk is full.
    """
    if not is_remote(path):
        return path
    objects = {name: entry for name, entry in _objects(path).items() if not name.endswith(tuple(but))}
    if not objects:
        raise UserError(f"{path}: asked for an object or a folder of them, found none; check the path")
    state = repr([str(path), *((name, entry["size"], entry["generation"]) for name, entry in sorted(objects.items()))])
    cache = cache_folder()
    kept = cache / hashlib.sha256(state.encode()).hexdigest()[:24]
    if not kept.is_dir():
        with reaching(path):
            cache.mkdir(parents=True, exist_ok=True)
            with scratch_folder(cache / "partial") as scratch:
                partial = scratch / "whole"
                targets = [str(partial / path.name / below) for below in objects]
                _store().get([entry["name"] for entry in objects.values()], targets)
                try:
                    partial.rename(kept)
                except OSError:
                    if not kept.is_dir():  # else another process of this machine was sooner
                        raise
    return kept / path.name


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` on a disk, gone at the end with what is still in it.

    Those for the same target that processes of this machine left when they were killed are removed first; another
    machine's, which may be at work on a disk that both share, are not.
    """
    host = socket.gethostname()
    ours = re.compile(rf"\.{re.escape(target.name)}-(\d{{1,9}})@{re.escape(host)}@.*")
    for path in target.parent.iterdir():
        if (found := ours.fullmatch(path.name)) and path.name not in _SCRATCH and not _lives(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-{os.getpid()}@{host}@", dir=target.parent))
    _SCRATCH.add(folder.name)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    """Whether a process of this machine is another one at work; this one's own folders are in _SCRATCH."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process != os.getpid()


def cache_folder() -> Path:
    """Where this user's machine keeps what can be made again: $XDG_CACHE_HOME/pit_jax, or ~/.cache/pit_jax."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pit_jax"


def put(path: Path, content: bytes) -> None:
    """An object with this content, in place of the one that was there. UserError where it cannot be."""
    with reaching(path):
        _store().pipe_file(str(path), content)


def create(path: Path, content: bytes) -> bool:
    """Make an object with this content; False, and nothing is done, where there is one of this name."""
    with reaching(path):
        try:
            _store().pipe_file(str(path), content, mode="create")
        except FileExistsError:
            return False
    return True


def content_of(path: Path) -> tuple[bytes, str] | None:
    """What an object holds, and the generation that it is of; None where there is none."""
    with reaching(path):
        try:
            return _store().cat_file(str(path)), _store().info(str(path))["generation"]
        except FileNotFoundError:
            return None


def remove_generation(path: Path, generation: str) -> None:
    """Remove an object that nobody has written since; otherwise nothing is done."""
    bucket, _, name = str(path).removeprefix(STORE).partition("/")
    with reaching(path), contextlib.suppress(FileNotFoundError, FileExistsError):  # it is gone, or another
        _store().call("DELETE", "b/{}/o/{}", bucket, name, ifGenerationMatch=generation)


def append(path: Path, content: bytes) -> None:
    """Content at the end of an object, without reading what it holds: the store joins two objects."""
    with reaching(path):
        if not _store().exists(str(path)):
            _store().pipe_file(str(path), content)
            return
        end = f"{path}.end-{uuid.uuid4().hex[:8]}"
        _store().pipe_file(end, content)
        try:
            _store().merge(str(path), [str(path), end])
        finally:
            _store().rm_file(end)


def remove(path: Path) -> None:
    """No object of this name, and none below it; the marker of a folder goes first."""
    with reaching(path):
        marker = [str(path / DONE)] if DONE in (names := _objects(path)) else []
        for batch in (marker, [entry["name"] for name, entry in names.items() if name != DONE]):
            if batch:
                _store().rm(batch)


def upload(folder: Path, target: Path) -> None:
    """The files of a folder on this machine's disk as objects; the marker of a finished folder comes last."""
    names = [str(file.relative_to(folder)) for file in files_below(folder)]
    with reaching(target):
        for batch in ([name for name in names if name != DONE], [name for name in names if name == DONE]):
            if batch:
                _store().put([str(folder / name) for name in batch], [str(target / name) for name in batch])


@contextlib.contextmanager
def reaching(path: Path | str) -> Iterator[None]:
    """What goes wrong with an object store inside becomes a UserError that names `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # gcsfs, its transport and Google's sign-in have their own
        why = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:300]
        raise UserError(
            f"cannot reach {path}: {why}; check the bucket, the network, the rights of who asks (`gcloud auth "
            "application-default login`, or the machine's service account), and the room on the disk"
        ) from error


def _objects(path: Path) -> dict[str, dict[str, Any]]:
    """What the store says of every object below a path, by its name from there; of an object itself, by ""."""
    with reaching(path):
        found = _store().find(str(path), detail=True)
    root = str(path).removeprefix(STORE)
    return {name.removeprefix(root).removeprefix("/"): entry for name, entry in found.items() if name != f"{root}/"}


@functools.cache
def _reach(bucket: str) -> None:
    with reaching(STORE + bucket):
        _store().exists(f"{bucket}/{DONE}")


@functools.cache
def _store() -> Any:
    """The file system of all gs:// paths, epath's too."""
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{STORE} paths need the gcsfs package; install it with: pip install 'pit_jax[gcs]'")
    import fsspec

    # What other hosts write must be seen: a listing that is kept would hide it.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False
    return fsspec.filesystem("gs")
