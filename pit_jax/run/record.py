"""run.json: the whole resolved config of a run, from which it can be opened again."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.files import read_json, write_json
from pit_jax.paths import is_remote, to_path

RECORD = "run.json"
CURE = "delete it and run any stage of that run again, which writes it"


class _Forks(TypedDict, total=False):
    forks: list[str]


def write_record(config: Config) -> None:
    """Keep the config in its workdir; a parent run and forks by their paths from there, so that all may move along."""
    workdir = to_path(config.workdir)
    content: dict[str, Any] = asdict(config)
    content["parent_run"] = config.parent_run and _from_workdir(config.parent_run, workdir)
    content["forks"] = [_from_workdir(fork, workdir) if os.path.isfile(fork) else fork for fork in config.forks]
    write_json(workdir / RECORD, content)


def read_record(workdir: Path, kind: type[Config]) -> Config:
    """The config of a run, of the class `kind`, which has the sections of its forks.

    Raises UserError for a folder that is no run, or of another version.
    """
    content = read_json(workdir / RECORD, dict[str, Any], cure=CURE)
    if content is None:
        raise UserError(f"{workdir}: asked for the workdir of a run, found no {RECORD} in it; run a stage there first")
    try:
        config: Config = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{workdir / RECORD}: not the config of a run of this version ({error})") from error
    parent = config.parent_run and _from_here(workdir, config.parent_run)
    return replace(config, workdir=str(workdir), parent_run=parent, forks=recorded_forks(workdir))


def recorded_forks(workdir: Path) -> tuple[str, ...]:
    """The forks of a run, which must be loaded before its config can be read."""
    content = read_json(workdir / RECORD, _Forks, cure=CURE) or {}
    return tuple(_from_there(workdir, fork) for fork in content.get("forks", ()))


def _from_workdir(path: str, workdir: Path) -> str:
    """A path as it is written in the workdir; from one disk to an object store there is no way but the whole path."""
    there = to_path(path)
    if is_remote(there):
        return path
    return os.path.abspath(path) if is_remote(workdir) else os.path.relpath(path, workdir)


def _from_here(workdir: Path, path: str) -> str:
    """A path that is written in the workdir."""
    if is_remote(workdir) or is_remote(to_path(path)):
        return path
    return os.path.normpath(workdir / path)


def _from_there(workdir: Path, fork: str) -> str:
    """A fork's file by its path from here; the name of an installed one as it is."""
    path = _from_here(workdir, fork)
    return path if os.path.isfile(path) else fork
