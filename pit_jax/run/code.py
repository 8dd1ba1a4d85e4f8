"""The code of the package itself, named by its content, and by its commit where that is known."""

import functools
import re
import subprocess
from pathlib import Path

from pit_jax import __version__
from pit_jax.files import digest_of, file_digest

PACKAGE = Path(__file__).resolve().parents[1]
ARCHIVED = Path(__file__).with_name("commit.txt")


@functools.cache
def package_code() -> str:
    """Version, digest of every source file of pit_jax, and the commit where it is known.

    Two runs of one digest were made by one code; the commit is where a reader finds it.
    """
    sources = sorted(PACKAGE.rglob("*.py"))
    parts = (part for path in sources for part in (path.relative_to(PACKAGE).as_posix(), file_digest(path)))
    commit = package_commit()
    return f"{__version__} {digest_of(*parts)}" + (f" commit {commit}" if commit else "")


def package_commit() -> str:
    """The commit that the code was taken from, with "+changes" where the checkout differs; "" where nobody knows.

    `git archive` writes it into commit.txt (.gitattributes); a checkout is asked; an installed package knows none.
    """
    archived = ARCHIVED.read_text(encoding="utf-8").strip() if ARCHIVED.is_file() else ""
    if re.fullmatch("[0-9a-f]{40,64}", archived):
        return archived
    if not (PACKAGE.parent / ".git").exists():
        return ""
    commit = _git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and _git("status", "--porcelain", "--", PACKAGE.name) else commit


def _git(*words: str) -> str:
    """What git prints; "" where there is no git, or it refuses."""
    try:
        done = subprocess.run(("git", *words), cwd=PACKAGE.parent, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
