"""training/checkpoint.py: what comes back is what was saved, and damage is noticed, said and survived."""

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
import numpy as np
import pytest

from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.state import TrainState, abstract_state


def assert_same_bits(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        np.testing.assert_array_equal(*(np.asarray(jax.random.key_data(z) if is_key else z) for z in (x, y)))


@pytest.fixture(scope="module")
def trained(toy: ModuleType) -> tuple[TrainState, TrainState]:
    """A state after two steps on eight devices (never donated again), and its shardings."""
    state, sharding, step = toy.toy_start(toy.toy_mesh(2, 2, 2))
    for index in range(2):
        state, _ = step(state, toy.toy_batch(index))
    return state, sharding


def shifted(state: TrainState, by: float) -> TrainState:
    """The state with parameters moved, to tell rounds apart."""
    return dataclasses.replace(state, params=jax.tree.map(lambda x: x + by, state.params))


def saved(folder: Path, state: TrainState, rounds: int, keep: int = 3) -> None:
    with Checkpoints(folder, keep=keep) as checkpoints:
        for round in range(1, rounds + 1):
            checkpoints.save(round, shifted(state, round), score=None)


def data_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("d/*") if path.is_file())


def test_every_bit_comes_back(trained: Any, tmp_path: Path) -> None:
    """Parameters, moments, counters, the typed key and extras, with their shardings, in a new object."""
    state, sharding = trained
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore_latest(abstract_state(state, sharding)) is None
        checkpoints.save(7, state, score=None)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None and found[0] == 7
    assert_same_bits(found[1], state)
    assert [x.sharding for x in jax.tree.leaves(found[1])] == [x.sharding for x in jax.tree.leaves(state)]
    assert jax.random.bits(found[1].key) == jax.random.bits(state.key)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2), (8, 1, 1)])
def test_another_mesh_may_read_it(toy: ModuleType, trained: Any, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    state, _ = trained
    saved(tmp_path, state, 1)
    other, sharding, _ = toy.toy_start(toy.toy_mesh(*shape))
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(other, sharding))
    assert found is not None
    assert_same_bits(found[1], shifted(state, 1))
    assert len(found[1].params["blocks"]["kernel"].sharding.device_set) == np.prod(shape)


def test_a_state_may_be_donated_while_it_is_being_saved(toy: ModuleType, tmp_path: Path) -> None:
    """Steps that reuse the buffers start at once; the checkpoint holds the state as it was."""
    state, sharding, step = toy.toy_start(toy.toy_mesh(1, 1, 1))
    big = {**state.extras, "position": jnp.zeros((4_000_000,), jnp.float32)}
    grow = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        before = jax.tree.map(np.array, state.params)
        checkpoints.save(0, dataclasses.replace(state, extras=big), score=None)
        for index in range(5):
            state, _ = step(state, toy.toy_batch(index))
            big["position"] = grow(big["position"])
    with Checkpoints(tmp_path) as checkpoints:
        asked = abstract_state(dataclasses.replace(state, extras=big))
        found = checkpoints.restore_latest(asked)
    assert found is not None
    assert_same_bits(found[1].params, before)
    assert float(jnp.max(found[1].extras["position"])) == 0.0


def test_the_newest_and_the_best_are_kept(trained: Any, tmp_path: Path) -> None:
    """Scores 1, 9, 3, none, 2, 2.5 with keep = 2: rounds 5 and 6, and round 2."""
    state, sharding = trained
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for round, score in enumerate((1.0, 9.0, 3.0, None, 2.0, 2.5), start=1):
            checkpoints.save(round, shifted(state, round), score=score)
        checkpoints.wait()
        assert checkpoints.rounds() == [2, 5, 6]
        assert checkpoints.best_round() == 2
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.best_round() == 2
        round, params = checkpoints.restore_params(abstract_state(state, sharding).params)
        assert round == 2
        assert_same_bits(params, shifted(state, 2).params)
        checkpoints.save(7, state, score=9.0)
        checkpoints.wait()
        assert checkpoints.best_round() == 7  # the newest of equals
        assert checkpoints.rounds() == [6, 7]


def test_without_scores_there_is_no_best(trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    saved(tmp_path, state, 3, keep=1)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_round() is None
        assert checkpoints.rounds() == [3]
        assert checkpoints.restore_params(abstract_state(state, sharding).params)[0] == 3


def test_a_part_of_the_parameters(trained: Any, tmp_path: Path) -> None:
    """A child stage reads the blocks of round 1 and nothing else."""
    state, sharding = trained
    saved(tmp_path, state, 2)
    part = {"blocks": abstract_state(state, sharding).params["blocks"]}
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        round, params = checkpoints.restore_params(part, round=1)
        with pytest.raises(ValueError, match=r"no checkpoint of round 9 .*; found rounds \[1, 2\]"):
            checkpoints.restore_params(part, round=9)
    assert round == 1
    assert_same_bits(params, {"blocks": shifted(state, 1).params["blocks"]})


def test_a_digest_names_the_parameters(trained: Any, tmp_path: Path) -> None:
    state, _ = trained
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for round, by in ((1, 0.0), (2, 0.0), (3, 0.5)):
            checkpoints.save(round, dataclasses.replace(shifted(state, by), step=jnp.int32(round)), score=None)
        checkpoints.wait()
        first, second, third = (checkpoints.digest(round) for round in (1, 2, 3))
    assert first == second != third and len(first) == 12


def test_a_round_on_disk_is_not_written_again(trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    saved(tmp_path, state, 2)
    saved(tmp_path, shifted(state, 100), 2)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None
    assert_same_bits(found[1], shifted(state, 2))


def truncate(folder: Path) -> None:
    for path in data_files(folder / "state"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(folder: Path) -> None:
    """One byte in the middle of the largest data file."""
    path = max(data_files(folder / "state"), key=lambda path: path.stat().st_size)
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
def test_a_corrupt_newest_falls_back_and_says_so(trained: Any, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Round 2 comes back, round 3 is named, set aside, and can be saved anew."""
    state, sharding = trained
    saved(tmp_path, state, 3)
    damage(tmp_path / "3")
    said: list[str] = []
    with Checkpoints(tmp_path, keep=3, say=said.append) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
        assert found is not None and found[0] == 2
        assert_same_bits(found[1], shifted(state, 2))
        assert len(said) == 1 and "checkpoint of round 3" in said[0] and "using round 2 instead" in said[0]
        assert (tmp_path / "corrupt-3").is_dir()
        checkpoints.save(3, shifted(state, 3), score=None)
    with Checkpoints(tmp_path, keep=3, say=said.append) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None and found[0] == 3
    assert_same_bits(found[1], shifted(state, 3))


def test_arrays_that_read_well_but_differ_are_noticed(trained: Any, tmp_path: Path) -> None:
    """Damage that the storage format lets through: here the noted checksum is the one that was changed."""
    state, sharding = trained
    saved(tmp_path, state, 2)
    notes = tmp_path / "2" / "meta" / "metadata"
    content = json.loads(notes.read_text())
    content["leaves"]["params/head/bias"]["sum"] ^= 1
    notes.write_text(json.dumps(content))
    said: list[str] = []
    with Checkpoints(tmp_path, say=said.append) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None and found[0] == 1
    assert "checksums do not fit: ['params/head/bias']" in said[0]


def test_a_reader_falls_back_and_leaves_the_folder_alone(trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    saved(tmp_path, state, 3)
    truncate(tmp_path / "3")
    with (
        pytest.warns(UserWarning, match="checkpoint of round 3 .* is corrupt"),
        Checkpoints(tmp_path, read_only=True) as checkpoints,
    ):
        assert checkpoints.restore_params(abstract_state(state, sharding).params)[0] == 2
        with pytest.raises(OSError, match="no readable checkpoint"):
            checkpoints.restore_params(abstract_state(state, sharding).params, round=3)
    assert {path.name for path in tmp_path.iterdir()} >= {"1", "2", "3"}


def test_a_corrupt_best_is_said(trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    said: list[str] = []
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for round, score in ((1, 1.0), (2, 5.0), (3, 2.0)):
            checkpoints.save(round, shifted(state, round), score=score)
    garble_notes(tmp_path / "2")
    with Checkpoints(tmp_path, read_only=True, say=said.append) as checkpoints:
        assert checkpoints.restore_params(abstract_state(state, sharding).params)[0] == 3
    assert len(said) == 1 and "checkpoint of round 2" in said[0] and "corrupt" in said[0]


def test_when_all_are_corrupt_it_never_starts_afresh(trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    saved(tmp_path, state, 2)
    truncate(tmp_path / "1")
    lose_manifest(tmp_path / "2")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(OSError, match=r"no readable checkpoint in .*round 2: .*round 1: .*Put back a copy"),
    ):
        checkpoints.restore_latest(abstract_state(state, sharding))
    assert {path.name for path in tmp_path.iterdir()} >= {"1", "2"}


def test_another_model_is_refused_with_both_values(trained: Any, tmp_path: Path) -> None:
    """Shape, dtype and names; it is not taken for damage, so nothing falls back or is set aside."""
    state, sharding = trained
    saved(tmp_path, state, 2)
    asked = abstract_state(state, sharding)
    head = asked.params["head"]
    wider = {**asked.params, "head": {**head, "kernel": jax.ShapeDtypeStruct((9,), jnp.float32)}}
    other = {**asked.params, "head": {"kernel": jax.ShapeDtypeStruct((8,), jnp.bfloat16), "gain": head["bias"]}}
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"params/head/kernel: shape \[9\] asked, \[8\] found"):
            checkpoints.restore_latest(dataclasses.replace(asked, params=wider))
        with pytest.raises(ValueError, match="does not fit the model") as caught:
            checkpoints.restore_latest(dataclasses.replace(asked, params=other))
        assert "params/head/kernel: dtype bfloat16 asked, float32 found" in str(caught.value)
        assert "params/head/gain: missing in the checkpoint" in str(caught.value)
        assert "params/head/bias: only in the checkpoint" in str(caught.value)
        assert checkpoints.rounds() == [1, 2]


def test_parameters_that_are_not_finite_are_not_saved(trained: Any, tmp_path: Path) -> None:
    state, _ = trained
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(FloatingPointError, match=r"not finite after round 4, nothing saved: \['params/"):
            checkpoints.save(4, shifted(state, float("nan")), score=None)
        with pytest.raises(ValueError, match="the score of round 4 is nan"):
            checkpoints.save(4, state, score=float("nan"))
        assert checkpoints.rounds() == []


def test_a_folder_that_cannot_be_written_stops_at_once(tmp_path: Path) -> None:
    """A path below a file cannot be made, whoever asks (chmod does not stop root)."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write checkpoints: .*choose another --workdir"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1)
    with pytest.raises(OSError, match="cannot write checkpoints"):
        Checkpoints("/proc/checkpoints", keep=1)


def test_nothing_to_read(trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    with pytest.raises(FileNotFoundError, match="does not exist; run the stage that writes it"):
        Checkpoints(tmp_path / "none", read_only=True)
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(FileNotFoundError, match="no checkpoints in .*; run the stage that writes them"),
    ):
        checkpoints.restore_params(abstract_state(state, sharding).params)
    with pytest.raises(ValueError, match="keep must be at least 1, found 0"):
        Checkpoints(tmp_path, keep=0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, where the tests may mount one."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_at_the_start(small_disk: Path, trained: Any) -> None:
    state, _ = trained
    (small_disk / "ballast").write_bytes(os.urandom(7_500_000))
    with pytest.raises(OSError, match="cannot write checkpoints: No space left on device; free space"):
        Checkpoints(small_disk / "checkpoints", keep=1)
    (small_disk / "ballast").unlink()
    big = dataclasses.replace(abstract_state(state), extras={"big": jax.ShapeDtypeStruct((4_000_000,), jnp.float32)})
    with Checkpoints(small_disk / "checkpoints") as checkpoints:
        checkpoints.check_space(state)
        with pytest.raises(OSError, match=r"it takes 15.3 MiB and .* MiB are free"):
            checkpoints.check_space(big)


def test_a_disk_that_fills_up_leaves_the_earlier_checkpoint(small_disk: Path, trained: Any) -> None:
    state, sharding = trained
    checkpoints = Checkpoints(small_disk / "checkpoints", keep=2)
    checkpoints.save(1, state, score=None)
    checkpoints.wait()
    noise = jax.random.normal(jax.random.key(0), (4_000_000,), jnp.float32)
    with pytest.raises(OSError, match=r"checkpoint of round 2 could not be written .*intact \(rounds \[1\]\)"):
        checkpoints.save(2, dataclasses.replace(state, extras={"noise": noise}), score=None)
        checkpoints.wait()
    checkpoints.close()
    with Checkpoints(small_disk / "checkpoints", keep=2) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
        assert found is not None and found[0] == 1
        assert_same_bits(found[1], state)
