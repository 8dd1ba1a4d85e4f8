"""The seal of a finished folder: its done.json, which holds the sha256 of every other file and, last, of itself.

Files are read whole and as they are, at the speed of sha256 (0.5 to 2 GB a second and core) or of the disk: what is
remembered of an earlier look (size, time) would not show a block that went bad. A host checks what it reads itself.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pit_jax.errors import UserError
from pit_jax.files import content_digest, write_text
from pit_jax.paths import DONE, cache_folder, files_below, is_remote, local

_FILES, _OWN = "files", "this file"


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Put done.json with `facts` into a new folder, which is complete but for it."""
    names = [path.relative_to(folder).as_posix() for path in files_below(folder)]
    write_text(folder / DONE, _sealed({**facts, _FILES: {name: content_digest(folder / name) for name in names}}))


def read_seal(folder: Path) -> dict[str, Any] | None:
    """The facts of a finished folder, None where there is no done.json. UserError where it is not as it was written."""
    path, what = folder / DONE, "another one"
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        facts = json.loads(text)
        if isinstance(facts, dict) and facts.pop(_OWN, None) is None:
            what = "one without its own digest, as earlier versions wrote it"
        elif isinstance(facts, dict) and _sealed(facts) == text:
            return facts
    except (OSError, ValueError, RecursionError) as error:
        what = f"no JSON ({error})"
    raise _damaged(path, folder, what)


def check_files(folder: Path, facts: Mapping[str, Any]) -> Path:
    """The folder on this machine's disk, where all its files are as they were written. UserError as `check_file`."""
    here = local(folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for checked in [pool.submit(_check, here / name, folder, digest) for name, digest in facts[_FILES].items()]:
            checked.result()
    return here


def check_file(folder: Path, name: str, facts: Mapping[str, Any]) -> Path:
    """One file on this machine's disk. UserError where it is missing, cannot be read, or holds something else."""
    here = local(folder / name)
    _check(here, folder, facts[_FILES][name])
    return here


def _check(path: Path, folder: Path, digest: str) -> None:
    try:
        what = "another one" if content_digest(path) != digest else ""
    except OSError as error:
        what = f"none that can be read ({error.strerror})"
    if what:
        raise _damaged(path, folder, what)


def _sealed(facts: Mapping[str, Any]) -> str:
    """done.json as a text that is the only one for these facts."""
    own = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return json.dumps({**facts, _OWN: own}, indent=1) + "\n"


def _damaged(path: Path, folder: Path, what: str) -> UserError:
    copies = f" and {cache_folder()}" if is_remote(folder) and not is_remote(path) else ""
    return UserError(
        f"{path}: asked for the file that was written when the data were prepared, found {what}; put it back, or "
        f"delete {folder}{copies} and prepare the data again: equal inputs give equal data"
    )
