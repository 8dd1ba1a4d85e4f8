"""The package's code has a name: another one with every byte of it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pit_jax import __version__
from pit_jax.run import code


def test_one_byte_is_another_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a file below, and where a file moves; what is no source does not count."""
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "one.py").write_text("x = 1\n")
    (tmp_path / "below" / "two.py").write_text("y = 2\n")
    names = [code.package_code.__wrapped__()]
    (tmp_path / "notes.txt").write_text("nothing")
    assert code.package_code.__wrapped__() == names[0]
    (tmp_path / "below" / "two.py").write_text("y = 3\n")
    names.append(code.package_code.__wrapped__())
    (tmp_path / "below" / "two.py").rename(tmp_path / "two.py")
    names.append(code.package_code.__wrapped__())
    assert len(set(names)) == 3 and all(name.startswith(f"{__version__} ") for name in names)


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path) -> Path:
    """A repository with the two files that name its commit, and a package."""
    root = tmp_path / "checkout"
    (root / "pit_jax" / "run").mkdir(parents=True)
    for name in (".gitattributes", "pit_jax/run/commit.txt"):
        shutil.copy(repository / name, root / name)
    (root / "pit_jax" / "one.py").write_text("x = 1\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "one")
    look_at(root, monkeypatch)
    return root


def look_at(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "PACKAGE", root / "pit_jax")
    monkeypatch.setattr(code, "ARCHIVED", root / "pit_jax" / "run" / "commit.txt")


def test_a_checkout_knows_its_commit_and_whether_it_differs(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert code.package_commit() == commit
    assert code.package_code.__wrapped__().endswith(f" commit {commit}")
    (checkout / "notes.txt").write_text("beside the package")
    assert code.package_commit() == commit
    (checkout / "pit_jax" / "one.py").write_text("x = 2\n")
    assert code.package_commit() == f"{commit}+changes"


def test_an_archive_knows_the_commit_that_it_was_made_from(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without git, and by the same digest: the name of a code is that of its text."""
    here, commit = code.package_code.__wrapped__(), git(checkout, "rev-parse", "HEAD")
    git(checkout, "archive", f"--output={tmp_path / 'code.tar'}", "HEAD")
    there = tmp_path / "there"
    there.mkdir()
    subprocess.run(["tar", "-xf", str(tmp_path / "code.tar"), "-C", str(there)], check=True)
    look_at(there, monkeypatch)
    monkeypatch.setenv("PATH", "")
    assert code.package_commit() == commit
    assert code.package_code.__wrapped__() == here


def test_an_installed_package_names_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one of a repository that it happens to lie in."""
    shutil.rmtree(checkout / ".git")
    assert code.package_commit() == ""
    assert " commit" not in code.package_code.__wrapped__()
