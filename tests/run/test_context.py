"""What a stage is given: keys by name, flags of a fork's stage, folders of others."""

from dataclasses import replace
from typing import Any

import jax
import pytest

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.recipes.catalogue import GAP
from pit_jax.run.provenance import StageId
from tests.run.on_disk import Forked, MineConfig
from tests.world import MakeContext


def test_a_key_is_a_function_of_the_seed_and_the_names(context: MakeContext, make_mesh: Any) -> None:
    """And not of what was drawn before, or by whom."""
    mesh = make_mesh(1, 1, 1)
    zero, one = (context(Config(seed=seed), mesh) for seed in (0, 1))
    keys = [zero.key("init"), zero.key("init", "reward"), zero.key("reward", "init"), one.key("init")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)
    assert zero.key("init") == context(Config(), mesh, GAP).key("init")


def test_a_stage_reads_its_flags_by_their_class(context: MakeContext) -> None:
    forked = replace(context(Config(), None), config=Forked(mine=MineConfig(margin=2.0)))
    assert forked.section(MineConfig).margin == 2.0
    with pytest.raises(UserError, match="no stage of a loaded fork has the flags MineConfig; give its Stage config="):
        context(Config(), None).section(MineConfig)


def test_a_stage_that_needs_no_devices_has_none(context: MakeContext) -> None:
    with pytest.raises(AssertionError, match="stage judge said that it needs no devices"):
        _ = context(Config(), None, StageId("judge")).mesh


def test_folders_are_those_of_the_run(context: MakeContext) -> None:
    found = context(Config(), None, GAP)
    assert found.folder == found.folder_of(GAP) == found.run.folder(GAP)


def test_the_embedding_has_a_row_for_every_id(context: MakeContext) -> None:
    """Of the tokenizer, or of a checkpoint that has more."""
    found = context(Config(), None)
    assert found.vocab_size == 40
    padded = replace(found.config, transformer=replace(found.config.transformer, vocab_rows=64))
    assert replace(found, config=padded).vocab_size == 64
