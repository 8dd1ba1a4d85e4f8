"""Every RL algorithm in a run of two rounds, with rewards of texts beside the model's: what it keeps, and a kill."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.config import Config, CurriculumConfig
from pit_jax.recipes import rl
from pit_jax.recipes.catalogue import RL_IMPROVER, RL_POLICY, STAGES
from pit_jax.rl.rewards import TEXT_REWARDS, RewardRow, TextReward
from pit_jax.run.context import Context
from pit_jax.run.params import restored
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId
from pit_jax.table import Source, forget
from tests.metric_rows import repeatable
from tests.world import MakeContext, World, finish_parents

FORK = Source(Path("mine.py"), "0123456789ab")
ROUNDS, BATCH = 2, 16
RUNS = {"ppo": RL_POLICY, "grpo": RL_IMPROVER, "rloo": RL_POLICY, "dr_grpo": RL_POLICY}
GROUPED = ("grpo", "rloo", "dr_grpo")


def words(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> list[float]:
    return [float(len(response.split())) for response in responses]


def low(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> list[float]:
    return [float(any(word < "3" for word in response.split())) for response in responses]


@pytest.fixture(autouse=True)
def declared() -> Iterator[None]:
    TEXT_REWARDS.add(TextReward("words", words), FORK)
    TEXT_REWARDS.add(TextReward("low", low, weight=-2.0), FORK)
    yield
    forget(FORK)


def config_of(name: str, role: str) -> Config:
    base = Config(seed=3)  # with which some answers end before their slot does
    asked: dict[str, Any] = {f"{role}_algorithm": name, f"{role}_rewards": ("words:0.1", "low")}
    knobs: dict[str, Any] = {
        "batch_size": BATCH,
        "minibatches": 2,
        "epochs": 1,
        "evaluate_every": 1,
        "heldout_prompts": 16,
    }
    curriculum = CurriculumConfig(references=("rejected", "policy-rl"), rounds=(1, ROUNDS - 1))
    free = replace(base.rl.monitors, action="warn")
    settings = replace(base.rl, **knobs, **asked, curriculum=curriculum, monitors=free, policy_rounds=ROUNDS)
    return replace(base, rl=replace(settings, stop_kl=0.0, select_kl=1e9, kl_coef=0.3))


@dataclass(frozen=True)
class Left:
    """What a run left on disk."""

    done: dict[str, Any]
    rows: list[dict[str, Any]]
    digests: dict[str, str]
    """Of every leaf of the last checkpoint."""


def left_by(context: Context) -> Left:
    folder = context.folder
    with jax.set_mesh(context.mesh):
        rl.run(context)
    rows = repeatable(folder.path)
    meta = json.loads((folder.path / "checkpoints" / str(ROUNDS) / "meta" / "metadata").read_text())
    done = folder.done()
    assert done is not None
    return Left(done, rows, {name: leaf["digest"] for name, leaf in meta["leaves"].items()})


@pytest.fixture
def start(place: MakeContext, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, StageId], Context]:
    """start(algorithm, stage) -> a context in which its parents are finished."""

    def make(name: str, stage: StageId) -> Context:
        monkeypatch.setattr(rl, "require_gates", lambda context: {})
        return finish_parents(place(config_of(name, stage.role), stage))

    return make


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_every_algorithm_and_a_kill(start: Any, world: World, name: str) -> None:
    """Killed behind its first round it ends as it would have, to the last bit; what it leaves has what it needs."""
    context = start(name, RUNS[name])
    folder, critic = context.folder, name == "ppo"
    left = left_by(context)

    (folder.path / "done.json").unlink()
    shutil.rmtree(folder.path / "checkpoints" / str(ROUNDS))
    assert left_by(context) == left

    in_params = {leaf for leaf in left.digests if leaf.startswith("params")}
    in_optimizer = {leaf for leaf in left.digests if leaf.startswith("opt_state")}
    for leaves in (in_params, in_optimizer):
        assert leaves and any("value/trunk" in leaf or "value/head" in leaf for leaf in leaves) == critic
    train, evaluation = (
        next(row for row in left.rows if row["step"] == 1 and row["phase"] == phase) for phase in ("train", "eval")
    )
    assert ("loss/value_avg" in train) == critic and abs(train["policy/approxkl_avg"]) < 1
    for row in (train, evaluation):
        assert 0 < row["reward/words"] < world.slot and 0 <= row["reward/low"] <= 1

    # What children read is the policy alone, whatever was trained beside it.
    read, expected = restored(context, folder, world.language.init), world.draw(world.language, 0)
    assert jax.tree.map(np.shape, read) == jax.tree.map(np.shape, expected)


def cost(world: World, stage: StageId, **knobs: Any) -> Any:
    base = Config()
    config = replace(base, transformer=world.config, rl=replace(base.rl, **knobs))
    shapes = Shapes(config, world.layout(world.examples(8)), world.vocab)
    made = STAGES[str(stage)].cost
    assert made is not None
    return made(shapes)


@pytest.mark.parametrize(("stage", "role"), [(RL_POLICY, "policy"), (RL_IMPROVER, "improver")])
def test_without_a_critic_rl_costs_less(world: World, stage: StageId, role: str) -> None:
    """Exactly what the value model reads and learns; and references are drawn once for all responses to them."""
    one = {f"{role}_samples": 2}
    ppo, grpo = (cost(world, stage, **one, **{f"{role}_algorithm": name}) for name in ("ppo", "grpo"))
    assert grpo.flops < ppo.flops and grpo.tokens < ppo.tokens
    rounds, batch, epochs = (30, 128, 2) if role == "policy" else (60, 128, 2)
    layout = world.layout(world.examples(8))
    shapes = Shapes(replace(Config(), transformer=world.config), layout, world.vocab)
    row = (layout.prompt_slot if role == "policy" else shapes.improver_slot) + layout.response_slot
    value = shapes.passes.score(row)
    assert ppo.flops - grpo.flops == pytest.approx(rounds * batch * (1 + 3 * epochs) * value.flops)
    assert ppo.tokens - grpo.tokens == pytest.approx(rounds * batch * (1 + epochs) * value.tokens)
    assert {cost(world, stage, **one, **{f"{role}_algorithm": name}) for name in GROUPED} == {grpo}
    fewer = cost(world, stage, **{f"{role}_samples": 4, f"{role}_algorithm": "grpo"})
    assert (fewer.flops < grpo.flops) == (role == "improver")
