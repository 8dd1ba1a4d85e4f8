"""Judges by name: the rubric of an embedded world, the run's own gap model, and those of forks."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pit_jax.batch import Answer
from pit_jax.config import Config
from pit_jax.data.sources import known_truth, world_of
from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.world import World
from pit_jax.errors import UserError
from pit_jax.evaluation.judges.judge import Bench, Judge
from pit_jax.run.provenance import StageId
from pit_jax.table import Table

GAP_MODEL = StageId("rm", "improver")


@functools.cache
def rubric(world: World) -> Judge:
    """The judge that knows the truth of a world."""

    def score(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [world.score(*both) for both in zip(prompts, answers, strict=True)]

    return Judge("rubric", score, applies=lambda config: world_of(config.data) is not None)


def _gap(bench: Bench, prompts: Sequence[str], candidates: Sequence[Answer], references: Sequence[Answer]) -> Any:
    return bench.texts.gaps(bench.models[GAP_MODEL], prompts, candidates, references)


RUBRIC = rubric(NOTES)  # of a run on another world: that world's
GAP = Judge("gap", _gap, kind="gap", needs=(GAP_MODEL,))
JUDGES: Table[Judge] = Table("judge", RUBRIC, GAP)


def judges_of(config: Config) -> list[Judge]:
    """The judges that a run asks for, the first one first; by default the rubric, where it applies, and the gap.

    Raises UserError for an unknown name, one named twice, and a judge that cannot judge these data.
    """
    names = config.evaluate.judges
    if not names:
        return [_of_run(judge, config) for judge in (RUBRIC, GAP) if judge.applies(config)]
    judges = [JUDGES[name] for name in names]
    if len(set(names)) != len(names):
        raise UserError(f"--evaluate.judges {' '.join(names)}: name each judge once")
    if unfit := [judge.name for judge in judges if not judge.applies(config)]:
        raise UserError(f"--evaluate.judges: {', '.join(unfit)} cannot judge the answers to {config.data.sources}")
    return [_of_run(judge, config) for judge in judges]


def _of_run(judge: Judge, config: Config) -> Judge:
    world = world_of(config.data)
    return rubric(world) if judge is RUBRIC and world is not None else judge


def truth_scores(config: Config, prompts: Sequence[str], texts: Sequence[str]) -> np.ndarray | None:
    """The true score of each answer, [N]; None where no truth is known."""
    truth = known_truth(config.data)
    return None if truth is None else np.asarray([truth(*both) for both in zip(prompts, texts, strict=True)])
