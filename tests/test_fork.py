"""What a fork declares is part of what its stages are made from; what is built in is nobody's."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pit_jax import fork as door
from pit_jax.config import Config
from pit_jax.data.layouts import LAYOUTS
from pit_jax.errors import UserError
from pit_jax.flags import parse
from pit_jax.forks import load_forks, unload_forks
from pit_jax.recipes.catalogue import STAGES, catalogue
from pit_jax.run.folders import Run
from pit_jax.run.provenance import StageId

VALUES = """
from beside import weight
from pit_jax.fork import Algorithm, Judge, Layout, Reference, StageId, Stage, TextReward, Triple, World, fork

fork(
    Algorithm("mine", None, None),
    Reference("mine", None),
    TextReward("mine", None, weight),
    Judge("mine", None),
    Layout("mine", lambda row: Triple("x", "a", "b")),
    World("mine", None, None, None, None, 1.0),
    Stage(name="mine", role="policy", run=None, help="mine", leaves="scalar", replaces=StageId("rm", "policy")),
)
"""
RL_POLICY, RL_IMPROVER = StageId("rl", "policy"), StageId("rl", "improver")


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """load(values, beside) -> the fork of two files is loaded, in place of the one before."""

    def save(values: str = VALUES, beside: str = "weight = 0.5\n") -> None:
        (tmp_path / "mine.py").write_text(values)
        (tmp_path / "beside.py").write_text(beside)
        load_forks([str(tmp_path / "mine.py")])

    yield save
    unload_forks()


def knobs(id: StageId, *flags: str) -> dict[str, object]:
    return catalogue()[id].depends_on(parse(list(flags)))


def test_the_door_exports_what_it_says() -> None:
    assert [name for name in door.__all__ if not hasattr(door, name)] == []


def test_built_in_values_are_no_forks(load: Callable[..., None]) -> None:
    load()
    for table in door.TABLES.values():
        assert [name for name in table.names() if table.source(name)] == [
            "mine-policy" if table is STAGES else "mine"
        ], table.kind


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (("--rl.improver-algorithm=mine",), "code of RL algorithm mine"),
        (("--rl.improver-rewards", "mine:2"), "code of text reward mine"),
        (("--rl.curriculum.references", "mine", "--rl.curriculum.rounds", "3"), "code of reference mine"),
    ],
)
def test_rl_depends_on_the_code_that_it_uses(load: Callable[..., None], flags: tuple[str, ...], name: str) -> None:
    """A byte of a module beside the fork counts; the other model's RL, and RL without it, stay as they were."""
    before = knobs(RL_POLICY, *flags), knobs(RL_IMPROVER)
    load()
    first = knobs(RL_IMPROVER, *flags)
    assert name in first and (knobs(RL_POLICY, *flags), knobs(RL_IMPROVER)) == before
    load(beside="weight = 0.6\n")
    second = knobs(RL_IMPROVER, *flags)
    assert {key for key in second if first[key] != second[key]} == {name}


def test_a_stage_depends_on_its_code_and_what_all_share(load: Callable[..., None]) -> None:
    load()
    first = knobs(StageId("mine", "policy"))
    assert {"code of stage mine-policy", "seed", "rm.batch_size", "rl.kl_coef", "data.heldout_fraction"} <= first.keys()
    load(beside="weight = 0.6\n")
    second = knobs(StageId("mine", "policy"))
    assert {key for key in second if first[key] != second[key]} == {"code of stage mine-policy"}


def test_a_stage_stands_in_for_another_one(load: Callable[..., None], tmp_path: Path) -> None:
    load()
    config = replace(parse([]), workdir=str(tmp_path))
    run = Run(config, catalogue())
    assert run.folder(StageId("rm", "policy")).name == "mine-policy"
    assert [parent.name for parent in run.folder(RL_POLICY).parents(config)] == ["sft-policy", "mine-policy"]
    unload_forks()
    assert Run(config, catalogue()).folder(StageId("rm", "policy")).name == "rm-policy"


def test_a_fork_that_changed_is_loaded_in_place_of_the_old_one(load: Callable[..., None]) -> None:
    load()
    load(VALUES.replace('Layout("mine"', 'Layout("other"'))
    assert "other" in LAYOUTS and "mine" not in LAYOUTS


def test_a_name_that_is_taken(load: Callable[..., None], tmp_path: Path) -> None:
    """Nothing of the fork stays."""
    with pytest.raises(UserError) as told:
        load(VALUES.replace('Layout("mine"', 'Layout("hh"'))
    assert str(told.value).startswith(f"{tmp_path / 'mine.py'}: the layout 'hh' is declared by pit_jax already")
    assert "mine" not in LAYOUTS and "mine-policy" not in STAGES


def test_values_of_another_kind(load: Callable[..., None]) -> None:
    with pytest.raises(UserError, match="asked for values of Stage, Algorithm, Reference, TextReward, Judge, Layout"):
        load("from pit_jax.fork import Config, fork\n\nimport beside\nfork(Config())\n")


def test_a_file_may_declare_without_being_named(tmp_path: Path) -> None:
    """A script or a notebook's module that calls `fork` and goes on from there."""
    script = tmp_path / "script.py"
    script.write_text("from pit_jax.fork import TextReward, fork\n\nfork(TextReward('scripted', len))\n")
    exec(compile(script.read_text(), str(script), "exec"), {})
    source = door.TABLES[door.TextReward].source("scripted")
    assert source is not None and source.file == script.resolve()
    door.table.forget(source)
    with pytest.raises(UserError, match=r"fork\(\.\.\.\) is called in a file"):
        exec("from pit_jax.fork import fork\n\nfork()\n", {})


def test_the_defaults_of_a_config_hold_no_fork() -> None:
    assert Config().forks == ()
