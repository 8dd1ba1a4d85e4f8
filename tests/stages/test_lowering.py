"""Every program of every stage lowers for a TPU, from shapes alone: nothing that only a CPU can do creeps in."""

import functools
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from pit_jax.batch import DpoBatch, Experience, PromptBatch, RolloutPrompts
from pit_jax.config import Config, DpoConfig, GuardsConfig, OptimizerConfig, RlConfig
from pit_jax.inference.improve import Answers
from pit_jax.inference.sampling import Sampling
from pit_jax.parallel.sharding import batch_sharding, param_sharding, replicated
from pit_jax.stages.dpo import make_dpo_loss
from pit_jax.stages.references import Supply
from pit_jax.stages.rm import make_gap_loss, make_reward_loss
from pit_jax.stages.rollout import Score, centered_gap, make_ppo_loss, make_rollout, plain_score, score_difference
from pit_jax.stages.sft import make_loss
from pit_jax.stages.systems import GapScorer, Systems
from pit_jax.training.optimizer import make_actor_critic_optimizer, make_optimizer
from pit_jax.training.state import abstract_state, create_state, state_sharding
from pit_jax.training.step import compile_step, make_train_step

ROWS = 8


class Shapes:
    """Placed ShapeDtypeStructs of everything that the programs take; `lower` makes a program's TPU text."""

    def __init__(self, world: Any, mesh: Any):
        self.world, self.mesh = world, mesh
        self.language, self.scalar = world.language, world.scalar
        self.config = RlConfig()

    def params(self, network: Any) -> Any:
        shapes = jax.eval_shape(network.init, jax.random.key(0))
        return self.placed(shapes, param_sharding(shapes, self.mesh))

    def actor_critic(self) -> Any:
        return {"policy": self.params(self.language), "value": self.params(self.scalar)}

    def rows(self, tree: Any) -> Any:
        return self.placed(tree, jax.tree.map(lambda _: batch_sharding(self.mesh), tree))

    def placed(self, tree: Any, sharding: Any) -> Any:
        return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, sharding)

    def key(self) -> Any:
        return jax.eval_shape(lambda: jax.random.key(0))

    def context(self, context: Any) -> Any:
        """A context over this mesh and these networks."""
        base = context(Config(), self.mesh)
        return replace(base, config=replace(base.config, transformer=self.world.config))

    def scalar_input(self) -> Any:
        return jax.ShapeDtypeStruct((), jnp.float32)

    def batch(self, kind: str) -> Any:
        return self.rows(self.world.batch(kind, self.world.examples(ROWS)))

    def answers(self) -> Any:
        shape = (ROWS, self.world.slot)
        return self.rows(Answers(jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool)))

    def lower(self, program: Any, *args: Any) -> str:
        """The program with its shardings for a TPU, as text. No TPU and no compiler for one is needed."""
        with jax.set_mesh(self.mesh):
            return program.trace(*args).lower(lowering_platforms=("tpu",)).as_text()

    def step(self, loss: Any, optimizer: Any, params: Any, batch: Any, accumulate: int) -> str:
        create = partial(create_state, optimizer=optimizer, seed=0, extras={})
        whole: NamedSharding = replicated(self.mesh)
        shapes = jax.eval_shape(create, params)
        places = state_sharding(shapes, param_sharding(params, self.mesh), whole)
        step = compile_step(
            make_train_step(loss, optimizer, accumulate=accumulate),
            state_sharding=places,
            batch_sharding=batch_sharding(self.mesh),
        )
        return self.lower(step, abstract_state(shapes, places), batch)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def shapes(world: Any, make_mesh: Any, request: pytest.FixtureRequest) -> Shapes:
    """float32 as on the laptop; bfloat16 with remat as on a pod."""
    pod = {"dtype": "bfloat16", "remat": True} if request.param == "bfloat16" else {}
    return Shapes(replace(world, config=replace(world.config, **pod)), make_mesh(2, 2, 2))


def check(text: str, name: str) -> None:
    assert text.startswith("module @jit_"), name
    assert '"fsdp"=2' in text and '"tensor"=2' in text, "the program carries its mesh"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sft_steps(shapes: Shapes, accumulate: int) -> None:
    optimizer = make_optimizer(OptimizerConfig(), 10)
    loss = make_loss(shapes.language, slots=shapes.world.slot)
    params, batch = shapes.params(shapes.language), shapes.batch("sft-improver")
    check(shapes.step(loss, optimizer, params, batch, accumulate), "sft")


@pytest.mark.parametrize("kind", ["reward", "gap"])
def test_reward_model_steps(shapes: Shapes, kind: str) -> None:
    loss = make_reward_loss(shapes.scalar) if kind == "reward" else make_gap_loss(shapes.scalar)
    optimizer = make_optimizer(OptimizerConfig(), 10)
    check(shapes.step(loss, optimizer, shapes.params(shapes.scalar), shapes.batch(kind), 1), kind)


def test_dpo_steps(shapes: Shapes) -> None:
    rows = dict(vars(shapes.world.batch("reward", shapes.world.examples(ROWS))))
    del rows["margin_B"]
    reference = dict.fromkeys(("ref_chosen_B", "ref_rejected_B"), jax.ShapeDtypeStruct((ROWS,), jnp.float32))
    batch = shapes.rows(DpoBatch(**rows, **reference))
    loss, optimizer = make_dpo_loss(shapes.language, DpoConfig()), make_optimizer(OptimizerConfig(), 10)
    check(shapes.step(loss, optimizer, shapes.params(shapes.language), batch, 1), "dpo")


def test_ppo_steps(shapes: Shapes) -> None:
    loss = make_ppo_loss(shapes.language, shapes.scalar, shapes.config, slot=shapes.world.slot)
    optimizer = make_actor_critic_optimizer(OptimizerConfig(), 10, value_learning_rate=1e-4)
    experience: Experience = shapes.rows(shapes.world.experience(ROWS))
    check(shapes.step(loss, optimizer, shapes.actor_critic(), experience, 1), "ppo")


@pytest.mark.parametrize(
    ("score", "guarded"),
    [(centered_gap, False), (centered_gap, True), (plain_score, False), (score_difference, False)],
)
def test_rollouts(shapes: Shapes, score: Score, guarded: bool) -> None:
    world, config = shapes.world, replace(shapes.config, guards=GuardsConfig(worst_case=guarded))
    ids = {"slot": world.slot, "eos_id": world.eos_id, "pad_id": world.pad_id}
    rollout = jax.jit(make_rollout(shapes.language, shapes.scalar, config, **ids, score=score))
    frozen = {"anchor": shapes.params(shapes.language), "scorer": shapes.params(shapes.scalar)}
    frozen |= {"guard": shapes.params(shapes.scalar)} if guarded else {}
    prompts: RolloutPrompts = shapes.rows(world.rollout_prompts(ROWS))
    check(shapes.lower(rollout, shapes.actor_critic(), frozen, prompts, shapes.key(), shapes.scalar_input()), "rollout")


def test_reference_programs(shapes: Shapes, context: Any) -> None:
    programs = Supply(shapes.context(context), {}).programs
    rows: PromptBatch = shapes.batch("prompts")
    params, answers = shapes.params(shapes.language), shapes.answers()
    check(shapes.lower(programs["own"], rows), "policy prompts")
    check(shapes.lower(programs["end"], rows.chosen_BR, rows.chosen_mask_BR), "dataset references")
    check(shapes.lower(programs["answer"], params, rows, shapes.key()), "sampled references")
    check(shapes.lower(programs["rewrite"], params, rows, answers, shapes.key()), "references of the improver")
    check(shapes.lower(programs["assemble"], rows, [answers, answers]), "improver prompts")


@pytest.mark.parametrize("truncation", [{}, {"top_k": 5, "top_p": 0.9}], ids=["whole", "truncated"])
def test_improve_programs(shapes: Shapes, context: Any, truncation: dict[str, Any]) -> None:
    systems = Systems(shapes.context(context), ["7 8", "9"], batch_size=ROWS, sampling=Sampling(**truncation))
    params, rows = shapes.params(shapes.language), shapes.batch("prompts")
    sampling = Sampling(shapes.scalar_input(), **truncation)
    check(shapes.lower(systems._answer, params, rows, shapes.key(), sampling), "answer")
    three_rounds = jax.jit(functools.partial(systems._improve, rounds=3))
    check(shapes.lower(three_rounds, params, params, rows, shapes.key(), sampling), "improve")
    models = (params, params, shapes.params(shapes.scalar))
    scored = jax.jit(functools.partial(systems._scored, rounds=3))
    check(shapes.lower(scored, *models, rows, shapes.key(), sampling, shapes.scalar_input()), "improve and stop")
    best_of_three = jax.jit(functools.partial(systems._best, n=3))
    check(shapes.lower(best_of_three, params, models[2], rows, shapes.key(), sampling), "best of n")


def test_gap_scorers(shapes: Shapes, context: Any) -> None:
    params = shapes.params(shapes.scalar)
    scorer = GapScorer(shapes.context(context), params, batch_size=ROWS)
    check(shapes.lower(scorer._gap, params, shapes.batch("prompts"), shapes.answers(), shapes.answers()), "gap scorer")


def test_a_program_that_needs_the_cpu_is_refused(shapes: Shapes) -> None:
    """What lowering is there to notice: here, a call back to the host that the program is built on."""

    @jax.jit
    def chatty(x: jax.Array) -> jax.Array:
        jax.debug.callback(lambda value: None, x)
        return x

    with pytest.raises(ValueError, match="different from the lowering platform tpu"):
        shapes.lower(chatty, jax.ShapeDtypeStruct((ROWS,), jnp.float32))
