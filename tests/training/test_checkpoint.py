"""training/checkpoint.py: what comes back is what was saved, and damage is noticed, said and survived."""

import dataclasses
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.errors import UserError
from pit_jax.parallel.mesh import mesh_of
from pit_jax.paths import to_path
from pit_jax.training.checkpoint import Checkpoints
from pit_jax.training.state import abstract_state


def test_every_bit_comes_back(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    """Parameters, moments, counters, the typed key and extras, with their shardings, in a new object."""
    state, sharding = trained
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore_latest(abstract_state(state, sharding)) is None
        checkpoints.save(7, state, score=None)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None and found[0] == 7
    toy.assert_same_bits(found[1], state)
    assert [x.sharding for x in jax.tree.leaves(found[1])] == [x.sharding for x in jax.tree.leaves(state)]
    assert jax.random.bits(found[1].key) == jax.random.bits(state.key)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 2), (8, 1, 1)])
def test_another_mesh_may_read_it(toy: ModuleType, trained: Any, tmp_path: Path, shape: tuple[int, int, int]) -> None:
    state, _ = trained
    toy.saved(tmp_path, state, 1)
    other, sharding, _ = toy.toy_start(mesh_of(*shape))
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(other, sharding))
    assert found is not None
    toy.assert_same_bits(found[1], toy.shifted(state, 1))
    assert len(found[1].params["blocks"]["kernel"].sharding.device_set) == np.prod(shape)


def test_a_bucket_holds_the_same_bits(toy: ModuleType, trained: Any, tmp_path: Path, bucket: str) -> None:
    """Kept, ranked, resumed and set aside as on a disk."""
    state, sharding = trained
    folder, said = to_path(bucket) / "checkpoints", list[str]()
    for where in (folder, tmp_path):
        with Checkpoints(where, keep=1, say=said.append) as checkpoints:
            checkpoints.check_space(state)
            for round, score in ((1, 2.0), (2, 1.0), (3, 0.5)):
                checkpoints.save(round, toy.shifted(state, round), score=score)
    with Checkpoints(folder, read_only=True) as there, Checkpoints(tmp_path, read_only=True) as here:
        assert there.rounds() == here.rounds() == [1, 3] and there.best_round() == 1
        assert there.digest(3) == here.digest(3) != there.digest(1)
    (folder / "3" / "state" / "_METADATA").unlink()
    with Checkpoints(folder, say=said.append) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None and found[0] == 1 and "round 3" in said[0] and len(said) == 1
    toy.assert_same_bits(found[1], toy.shifted(state, 1))
    assert (folder / "corrupt-3").is_dir() and not (folder / "3").exists()


def test_a_state_may_be_donated_while_it_is_being_saved(toy: ModuleType, tmp_path: Path) -> None:
    """Steps that reuse the buffers start at once; the checkpoint holds the state as it was."""
    state, sharding, step = toy.toy_start(mesh_of(1, 1, 1))
    big = {**state.extras, "position": jnp.zeros((1_000_000,), jnp.float32)}
    grow = jax.jit(lambda x: x + 1, donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        before = jax.tree.map(np.array, state.params)
        checkpoints.save(0, dataclasses.replace(state, extras=big), score=None)
        for index in range(5):
            state, _ = step(state, toy.toy_batch(index))
            big["position"] = grow(big["position"])
    with Checkpoints(tmp_path) as checkpoints:
        grown = dataclasses.replace(state, extras=big)
        asked = abstract_state(grown, jax.tree.map(lambda x: x.sharding, grown))
        found = checkpoints.restore_latest(asked)
    assert found is not None
    toy.assert_same_bits(found[1].params, before)
    assert float(jnp.max(found[1].extras["position"])) == 0.0


def test_the_newest_and_the_best_are_kept(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    """Scores 1, 9, 3, none, 2, 2.5 with keep = 2: rounds 5 and 6, and round 2."""
    state, sharding = trained
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for round, score in enumerate((1.0, 9.0, 3.0, None, 2.0, 2.5), start=1):
            checkpoints.save(round, toy.shifted(state, round), score=score)
        checkpoints.wait()
        assert checkpoints.rounds() == [2, 5, 6]
        assert checkpoints.best_round() == 2
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.best_round() == 2
        round, params = checkpoints.restore_params(abstract_state(state, sharding).params)
        assert round == 2
        toy.assert_same_bits(params, toy.shifted(state, 2).params)
        checkpoints.save(7, state, score=9.0)
        checkpoints.wait()
        assert checkpoints.best_round() == 7  # the newest of equals
        assert checkpoints.rounds() == [6, 7]


def test_what_a_kill_left_goes_when_the_run_goes_on(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    """A save that was not finished, and checkpoints that were to be dropped behind it."""
    toy.saved(tmp_path, trained[0], 3, keep=3)
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        restored = checkpoints.restore_latest(abstract_state(*trained))
    assert restored is not None and restored[0] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_without_scores_there_is_no_best(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    toy.saved(tmp_path, state, 3, keep=1)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.best_round() is None
        assert checkpoints.rounds() == [3]
        assert checkpoints.restore_params(abstract_state(state, sharding).params)[0] == 3


def test_a_reader_hears_no_advice_about_reading(
    toy: ModuleType, trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What orbax says of a folder that is opened read-only is what was asked for; the logger is left as it was."""
    toy.saved(tmp_path, trained[0], 1)
    before = logging.getLogger("absl").level
    caplog.clear()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.rounds() == [1]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert logging.getLogger("absl").level == before


def test_a_part_of_the_parameters(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    """A child stage reads the blocks of round 1 and nothing else."""
    state, sharding = trained
    toy.saved(tmp_path, state, 2)
    part = {"blocks": abstract_state(state, sharding).params["blocks"]}
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        round, params = checkpoints.restore_params(part, round=1)
        with pytest.raises(UserError, match=r"no checkpoint of round 9 .*; found rounds \[1, 2\]"):
            checkpoints.restore_params(part, round=9)
    assert round == 1
    toy.assert_same_bits(params, {"blocks": toy.shifted(state, 1).params["blocks"]})


def test_a_digest_names_the_parameters(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    state, _ = trained
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for round, by in ((1, 0.0), (2, 0.0), (3, 0.5)):
            checkpoints.save(round, dataclasses.replace(toy.shifted(state, by), step=jnp.int32(round)), score=None)
        checkpoints.wait()
        first, second, third = (checkpoints.digest(round) for round in (1, 2, 3))
    assert first == second != third and len(first) == 12


def test_a_round_on_disk_is_not_written_again(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    toy.saved(tmp_path, state, 2)
    toy.saved(tmp_path, toy.shifted(state, 100), 2)
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_latest(abstract_state(state, sharding))
    assert found is not None
    toy.assert_same_bits(found[1], toy.shifted(state, 2))


def test_another_model_is_refused_with_both_values(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    """Shape, dtype and names; it is not taken for damage, so nothing falls back or is set aside."""
    state, sharding = trained
    toy.saved(tmp_path, state, 2)
    asked = abstract_state(state, sharding)
    head = asked.params["head"]
    wider = {**asked.params, "head": {**head, "kernel": jax.ShapeDtypeStruct((9,), jnp.float32)}}
    other = {**asked.params, "head": {"kernel": jax.ShapeDtypeStruct((8,), jnp.bfloat16), "gain": head["bias"]}}
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"params/head/kernel: shape \[9\] asked, \[8\] found"):
            checkpoints.restore_latest(dataclasses.replace(asked, params=wider))
        with pytest.raises(UserError, match="does not fit the model") as caught:
            checkpoints.restore_latest(dataclasses.replace(asked, params=other))
        assert "params/head/kernel: dtype bfloat16 asked, float32 found" in str(caught.value)
        assert "params/head/gain: missing in the checkpoint" in str(caught.value)
        assert "params/head/bias: only in the checkpoint" in str(caught.value)
        assert checkpoints.rounds() == [1, 2]


def test_parameters_that_are_not_finite_are_not_saved(toy: ModuleType, trained: Any, tmp_path: Path) -> None:
    state, _ = trained
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(UserError, match=r"not finite after round 4, nothing saved: \['params/"):
            checkpoints.save(4, toy.shifted(state, float("nan")), score=None)
        with pytest.raises(UserError, match="the score of round 4 is nan"):
            checkpoints.save(4, state, score=float("nan"))
        assert checkpoints.rounds() == []


def test_a_folder_that_cannot_be_written_stops_at_once(tmp_path: Path) -> None:
    """A path below a file cannot be made, whoever asks (chmod does not stop root)."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*checkpoints: .*; free space there, change its rights or pass"):
        Checkpoints(tmp_path / "file" / "checkpoints", keep=1)
    with pytest.raises(UserError, match="cannot write /proc/checkpoints: "):
        Checkpoints("/proc/checkpoints", keep=1)


def test_nothing_to_read(trained: Any, tmp_path: Path) -> None:
    state, sharding = trained
    with pytest.raises(UserError, match="does not exist; run the stage that writes it"):
        Checkpoints(tmp_path / "none", read_only=True)
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(UserError, match="no checkpoints in .*; run the stage that writes them"),
    ):
        checkpoints.restore_params(abstract_state(state, sharding).params)
