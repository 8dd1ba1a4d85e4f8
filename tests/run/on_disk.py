"""Stage folders in a temporary workdir, begun and finished as trainings do it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pit_jax.config import Config
from pit_jax.errors import UserError
from pit_jax.recipes.catalogue import GAP, REWARD, RL_POLICY, SFT_IMPROVER, SFT_POLICY, catalogue
from pit_jax.run.folders import Run, StageFolder
from pit_jax.run.provenance import StageId
from tests.world import finish as mark

CONFIG = Config()
TRAINED = (SFT_POLICY, SFT_IMPROVER, REWARD, GAP, RL_POLICY)


@dataclass(frozen=True)
class MineConfig:
    margin: float = 0.5


@dataclass(frozen=True)
class Forked(Config):
    """A config with the flags of a fork's stage."""

    mine: MineConfig = field(default_factory=MineConfig)


def run_in(workdir: Path, config: Config = CONFIG) -> Run:
    return Run(replace(config, workdir=str(workdir)), catalogue())


def folder_in(workdir: Path, id: StageId, config: Config = CONFIG) -> StageFolder:
    return run_in(workdir, config).folder(id)


def finish(workdir: Path, *stages: StageId) -> None:
    for id in stages:
        mark(folder_in(workdir, id))


def make(workdir: Path, *stages: StageId, config: Config = CONFIG) -> None:
    """Begin and finish each stage, as a training does."""
    for id in stages:
        folder = folder_in(workdir, id, config)
        lineage = folder.begin(folder.run.config, data_fingerprint="d")
        folder.finish(round=7, digest=f"{id} of {lineage['config']}")


def message(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    return str(error.value)
