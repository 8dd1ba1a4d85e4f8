"""Loading forks: Python files that declare stages, algorithms, rewards, judges, layouts, .. (pit_jax.fork).

A fork is loaded where --fork names it, by its file or as the entry point of an installed package, and nowhere else.
"""

import functools
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Any

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.recipes.catalogue import STAGES
from pit_jax.table import Source, forget, importing, source_of

GROUP = "pit_jax.forks"  # of entry points: NAME = "module", whose import declares the fork
_loaded: dict[Path, Source] = {}


def load_forks(names: Sequence[str]) -> None:
    """Import each fork once; one whose code has changed since is imported again.

    Raises UserError for a name that is neither a file nor an installed fork, and for a fork that raises: it names the
    fork's file and line.
    """
    for name in names:
        file = _file_of(name)
        source = source_of(file)
        before = _loaded.get(source.file)
        if before == source:
            continue
        if before is not None:
            forget(before)
        with importing(source):
            _import(name, source)
        _loaded[source.file] = source


def unload_forks() -> None:
    """Take back what the loaded forks have declared."""
    while _loaded:
        forget(_loaded.popitem()[1])


def installed() -> dict[str, str]:
    """The module of each installed fork, by its name."""
    return {point.name: point.value for point in importlib.metadata.entry_points(group=GROUP)}


def with_sections(config: Config) -> Config:
    """`config` with a section for every stage of a loaded fork that has flags of its own, at its defaults."""
    made = config_class()
    return made(**{f.name: getattr(config, f.name) for f in fields(Config)})


def config_class() -> type[Config]:
    """Config, with the sections of the loaded forks."""
    return _config_class(tuple((stage.name, stage.config) for stage in STAGES if stage.config is not None))


@functools.cache
def _config_class(sections: tuple[tuple[str, type[Any]], ...]) -> type[Config]:
    named = dict(sections)
    if taken := named.keys() & {f.name for f in fields(Config)}:
        raise UserError(
            f"a fork's stage with flags is called {', '.join(taken)}, as a section of the config; rename it"
        )
    if not named:
        return Config
    extra = [(name, kind, field(default_factory=kind)) for name, kind in named.items()]
    return make_dataclass("Config", extra, bases=(Config,), frozen=True)


def fault_of(error: BaseException) -> str | None:
    """Where a fork's code raised, or called what raised: file, line and function; None where no fork was involved."""
    files = {file for source in _loaded.values() for file in source.files}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path in files:
            return f"fork {path}, line {frame.lineno}, in {frame.name}: {type(error).__name__}: {error}"
    return None


def _file_of(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    known = installed()
    if name not in known:
        listed = ", ".join(known) or "none"
        raise UserError(
            f"--fork={name}: no such file, and no installed fork of that name; installed are {listed} (entry points "
            f"{GROUP})"
        )
    spec = importlib.util.find_spec(known[name].partition(":")[0])
    if spec is None or spec.origin is None:
        raise UserError(f"--fork={name}: the installed fork names the module {known[name]}, which is not there")
    return Path(spec.origin)


def _import(name: str, source: Source) -> None:
    """Run the file as a module of its own; what lies beside it can be imported by it."""
    folder = str(source.file.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(f"pit_jax_fork_{source.file.stem}_{source.digest}", source.file)
    assert spec is not None and spec.loader is not None, source.file
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # a program of others raises what it likes
        frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).resolve() == source.file]
        line = f", line {frames[-1].lineno}" if frames else ""
        raise UserError(f"--fork={name}: {source.file}{line}: {type(error).__name__}: {error}") from error
