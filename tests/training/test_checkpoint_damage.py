"""training/checkpoint.py under damage: it is noticed, said, survived, and never answered by a fresh start."""

import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pit_jax.errors import UserError
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.state import abstract_state

# A failed read leaves the reads of the other arrays without an event loop to report to, or unread.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine 'Store.*' was never awaited:RuntimeWarning"),
]


def data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("d/*") if path.is_file())


def truncate(folder: Path) -> None:
    for path in data_files(folder / "state"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(folder: Path) -> None:
    """One byte in the middle of every data file: that of one alone may lie where nothing is stored."""
    for path in data_files(folder / "state"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)


def lose_data(folder: Path) -> None:
    for path in data_files(folder / "state"):
        path.unlink()


def garble_notes(folder: Path) -> None:
    (folder / "meta" / "metadata").write_text('{"round": ')


def lose_notes(folder: Path) -> None:
    shutil.rmtree(folder / "meta")


def lose_manifest(folder: Path) -> None:
    (folder / "state" / "manifest.ocdbt").unlink()


DAMAGES = [truncate, garble, lose_data, garble_notes, lose_notes, lose_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_newest_falls_back_and_says_so(
    toy: ModuleType, trained: Any, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Round 2 comes back, round 3 is named, set aside, and can be saved anew."""
    state, sharding = trained
    toy.saved(tmp_path, state, 3)
    damage(tmp_path / "3")
    said: list[str] = []
    with Checkpoints(tmp_path, keep=3, say=said.append) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
        assert found is not None and found[0] == 2
        toy.assert_same_bits(found[1], toy.shifted(state, 2))
        assert len(said) == 1 and "checkpoint of round 3" in said[0] and "using round 2 instead" in said[0]
        assert (tmp_path / "corrupt-3").is_dir()
        checkpoints.save(3, toy.shifted(state, 3), score=None)
    with Checkpoints(tmp_path, keep=3, say=said.append) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None and found[0] == 3
    toy.assert_same_bits(found[1], toy.shifted(state, 3))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes"),
        ValueError("UNAVAILABLE: Error reading gs://b/3: HTTP response code: 503"),
        OSError(116, "Stale file handle"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
)
def test_a_read_that_fails_for_a_while_is_no_damage(
    toy: ModuleType, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The newest checkpoint is neither given up nor set aside, and nobody is told to start anew."""
    state, sharding = trained
    toy.saved(tmp_path, state, 3)

    def unavailable(*_: Any, **__: Any) -> None:
        raise error

    with Checkpoints(tmp_path, keep=3) as checkpoints, monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "restore", unavailable)
        with pytest.raises(UserError, match="round 3 .* cannot be read at the moment .* run the same command again"):
            checkpoints.restore_latest(abstract_state(state, sharding))
        with pytest.raises(UserError, match="cannot be read at the moment"):
            checkpoints.best_round()
    assert {"1", "2", "3"} <= {path.name for path in tmp_path.iterdir()} and not list(tmp_path.glob("corrupt*"))


def test_arrays_that_read_well_but_differ_are_noticed(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    """Damage that the storage format lets through: here the noted digest is the one that was changed."""
    state, sharding = trained
    toy.saved(tmp_path, state, 2)
    notes = tmp_path / "2" / "meta" / "metadata"
    content = json.loads(notes.read_text())
    content["leaves"]["params/head/bias"]["digest"] = "0" * 16
    notes.write_text(json.dumps(content))
    said: list[str] = []
    with Checkpoints(tmp_path, say=said.append) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None and found[0] == 1
    assert "digests do not fit: ['params/head/bias']" in said[0]


def test_checkpoints_of_an_earlier_version_are_left_alone(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    """They hold other checksums: that is no damage, for which they would be set aside."""
    state, sharding = trained
    toy.saved(tmp_path, state, 1)
    notes = tmp_path / "1" / "meta" / "metadata"
    notes.write_text(notes.read_text().replace('"digest"', '"sum"'))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="written by an earlier pit_jax"):
        checkpoints.restore_latest(abstract_state(state, sharding))
    assert not list(tmp_path.glob("corrupt*"))


def test_a_reader_falls_back_and_leaves_the_folder_alone(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    toy.saved(tmp_path, state, 3)
    truncate(tmp_path / "3")
    with (
        pytest.warns(UserWarning, match="checkpoint of round 3 .* is corrupt"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        assert checkpoints.restore_params(abstract_state(state, sharding).params)[0] == 2
        with pytest.raises(UserError, match="no readable checkpoint"):
            checkpoints.restore_params(abstract_state(state, sharding).params, round=3)
    assert {path.name for path in tmp_path.iterdir()} >= {"1", "2", "3"}


def test_a_corrupt_best_is_said(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    said: list[str] = []
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for round, score in ((1, 1.0), (2, 5.0), (3, 2.0)):
            checkpoints.save(round, toy.shifted(state, round), score=score)
    garble_notes(tmp_path / "2")
    with Checkpoints(tmp_path, read_only=True, say=said.append) as checkpoints:
        assert checkpoints.restore_params(abstract_state(state, sharding).params)[0] == 3
    assert len(said) == 1 and "checkpoint of round 2" in said[0] and "corrupt" in said[0]


def test_when_all_are_corrupt_it_never_starts_afresh(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    toy.saved(tmp_path, state, 2)
    truncate(tmp_path / "1")
    lose_manifest(tmp_path / "2")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match=r"no readable checkpoint in .*round 2: .*round 1: .*Put back a copy"),
    ):
        checkpoints.restore_latest(abstract_state(state, sharding))
    assert {path.name for path in tmp_path.iterdir()} >= {"1", "2"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where the tests may mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_at_the_start(small_disk: Path, trained: Any) -> None:
    state, sharding = trained
    (small_disk / "ballast").write_bytes(os.urandom(7_500_000))
    with pytest.raises(UserError, match=r"cannot write .*checkpoints: No space left on device; free space"):
        Checkpoints(small_disk / "checkpoints", keep=1)
    (small_disk / "ballast").unlink()
    grown = {"big": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)}
    big = dataclasses.replace(abstract_state(state, sharding), extras=grown)
    with Checkpoints(small_disk / "checkpoints") as checkpoints:
        checkpoints.check_space(state)
        with pytest.raises(UserError, match=r"it takes 15.3 MiB and .* MiB are free"):
            checkpoints.check_space(big)


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint(toy: ModuleType, small_disk: Path, trained: Any) -> None:
    state, sharding = trained
    checkpoints = Checkpoints(small_disk / "checkpoints", keep=2)
    checkpoints.save(1, state, score=None)
    checkpoints.wait()
    noise = jax.random.normal(jax.random.key(0), (4_000_000,), jnp.float32)
    with pytest.raises(UserError, match=r"checkpoint of round 2 could not be written .*intact \(rounds \[1\]\)"):
        checkpoints.save(2, dataclasses.replace(state, extras={"noise": noise}), score=None)
        checkpoints.wait()
    checkpoints.close()
    with Checkpoints(small_disk / "checkpoints", keep=2) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
        assert found is not None and found[0] == 1
        toy.assert_same_bits(found[1], state)
