"""The programs that a stage lists are the ones that it runs: of the same shapes, in the same places, to the letter.

A training is stopped where it would compile: what it was about to run is compared with what its stage lists.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import Config, CurriculumConfig
from pit_jax.inference.engine import Engine
from pit_jax.recipes import rl
from pit_jax.recipes.catalogue import RL_IMPROVER, RL_POLICY, STAGES, catalogue
from pit_jax.recipes.comparison import draw
from pit_jax.recipes.spa import stage as spa
from pit_jax.recipes.spa.labels import make_logprob
from pit_jax.rl.monitors import FIGURES
from pit_jax.run import supervised
from pit_jax.run.context import Context
from pit_jax.run.programs import Shapes
from pit_jax.run.provenance import StageId
from pit_jax.training.session import Session
from pit_jax.training.state import StatePlan
from pit_jax.training.step import compile_step
from tests.world import MakeContext, finish_parents

MESH = (2, 2, 2)
SPA = StageId("spa", "policy")
SUPERVISED = [id for id, stage in catalogue().items() if stage.leaves and id not in (RL_POLICY, RL_IMPROVER, SPA)]


class Stopped(Exception):
    """A training at its first update."""


@dataclass
class Seen:
    """What a training was about to run."""

    programs: list[tuple[Any, Any]] = field(default_factory=list)
    """(jitted function, its arguments)."""

    def note(self, function: Any, *args: Any) -> None:
        self.programs.append((function, args))

    def stop(self, step: Any, *, frozen: Any = None, **shardings: Any) -> Any:
        """In the place of compile_step. What a state holds beside parameters and optimizer passes through an update,
        but for a loss beside an anchor."""

        def stopping(state: Any, batch: Any) -> Any:
            if frozen is None:
                self.note(jax.jit(step), replace(state, extras={}), batch)
            else:
                self.note(compile_step(step, frozen=frozen, **shardings), state, batch)
            raise Stopped

        return stopping

    def run(self, function: Any) -> Any:
        """In the place of a jitted function: zeros of the shapes that it gives."""

        def noted(*args: Any) -> Any:
            self.note(function, *args)
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *args))

        return noted


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()

    class Noted(Engine):
        def __init__(self, *args: Any):
            super().__init__(*args)
            completing = self.completing
            self.to_decode, self.completing = found.run(self.to_decode), lambda samples: found.run(completing(samples))
            self.improver_prompt = found.run(self.improver_prompt)

    make_trainer = rl.make_trainer

    def trainer(*args: Any) -> Any:
        made = make_trainer(*args)
        return replace(made, score=found.run(made.score))

    def begin(plan: StatePlan, params: Any, extras: Any) -> Any:
        """What the loop reads of a state is there, what only programs read has its shape alone."""
        return replace(plan.abstract, extras=jax.device_put(extras, plan.sharding.extras))

    monkeypatch.setattr(StatePlan, "begin", begin)
    monkeypatch.setattr(Session, "evaluated", lambda self, *args, **more: None)
    monkeypatch.setattr(supervised, "compile_step", found.stop)
    monkeypatch.setattr(rl, "compile_step", found.stop)
    for user in (rl, draw):
        monkeypatch.setattr(user, "Engine", Noted)
    monkeypatch.setattr(rl, "make_trainer", trainer)
    monkeypatch.setattr(rl, "require_gates", lambda context: {})
    return found


def small(**rl: Any) -> Config:
    """One update of eight rows of every kind, one round of sixteen rollouts, a second gap model with its own loss."""
    base = Config()
    curriculum = CurriculumConfig(references=("chosen+improver",), rounds=(1,))
    knobs = {"batch_size": 16, "minibatches": 2, "epochs": 1, "policy_rounds": 1, "curriculum": curriculum, **rl}
    return replace(
        base,
        sft=replace(base.sft, policy_steps=1, improver_steps=1, batch_size=8),
        rm=replace(base.rm, policy_steps=1, improver_steps=1, second_gap_steps=1, batch_size=8, gap_loss="pair"),
        dpo=replace(base.dpo, steps=1, batch_size=8),
        spa=replace(base.spa, batch_size=8, gold_share=0.2, slices=(1.0,), strengths=(0.5,)),
        improve=replace(base.improve, batch_size=8),
        rl=replace(base.rl, **knobs),
    )


def described(tree: Any) -> list[tuple[str, tuple[int, ...], str]]:
    """Path, shape and dtype of every leaf; a number is a scalar, and a key a key."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), jnp.shape(leaf), str(_dtype(leaf))) for path, leaf in leaves]


def _dtype(leaf: Any) -> Any:
    is_key = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return "key" if is_key else jax.dtypes.canonicalize_dtype(jnp.result_type(leaf))


def places(tree: Any) -> list[Any]:
    return [x.sharding for x in jax.tree.leaves(tree)]


def text(mesh: Any, function: Any, args: Any) -> str:
    """The program itself, without the addresses of its functions."""
    with jax.set_mesh(mesh):
        return re.sub(r"0x[0-9a-f]+", "", str(function.trace(*args).jaxpr))


def listed(context: Context) -> dict[str, Any]:
    data: Any = context.data
    shapes = Shapes(context.config, data.layout, context.vocab_size, context.mesh)
    return {program.name: program for program in STAGES[str(context.stage.id)].programs(shapes)}


def stopped(context: Context) -> None:
    with pytest.raises(Stopped), jax.set_mesh(context.mesh):
        STAGES[str(context.stage.id)].run(context)


@pytest.mark.parametrize("id", SUPERVISED, ids=str)
def test_a_supervised_stage_updates_as_it_lists(place: MakeContext, seen: Seen, id: StageId) -> None:
    context = finish_parents(place(small(), id, mesh=MESH))
    stopped(context)
    ((function, args),) = seen.programs
    program = listed(context)["update"]
    assert described(args) == described(program.args) and places(args) == places(program.args)
    assert text(context.mesh, function, args) == text(context.mesh, program.function, program.args)


def test_an_iteration_of_spa_runs_what_it_lists(
    place: MakeContext, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the gold pairs: answers are drawn, scored, and eight pairs taken for what came of it.

    Gold answers, which prompts from texts have none of, no program reads.
    """
    context = finish_parents(place(small(), SPA, mesh=MESH))
    context.folder.of("seed").finish(round=1, digest="seed")
    rows, triples = context.data.rows("rm", "reward"), context.data.triples("rm")[:8]
    monkeypatch.setattr(spa, "labelled", lambda *args: (triples, Counter()))
    monkeypatch.setattr(spa, "training_rows", lambda *args: (rows.picked(np.arange(8)), np.arange(8)))
    monkeypatch.setattr(spa, "make_logprob", lambda model: seen.run(make_logprob(model)))
    stopped(context)
    programs = listed(context)

    def read(args: Any) -> str:
        return str([leaf for leaf in described(args) if not re.search(r"(chosen|rejected)_(mask_)?BR", leaf[0])])

    assert {read(args) for _, args in seen.programs} == {read(program.args) for program in programs.values()}
    (function, args), program = seen.programs[-1], programs["update"]
    assert described(args) == described(program.args) and places(args) == places(program.args)
    assert text(context.mesh, function, args) == text(context.mesh, program.function, program.args)


@pytest.mark.parametrize(
    ("id", "changes"),
    [
        (RL_POLICY, {}),
        (RL_POLICY, {"policy_algorithm": "rloo", "policy_samples": 2}),
        (RL_IMPROVER, {}),
        (RL_IMPROVER, {"improver_algorithm": "grpo", "improver_samples": 2}),
        (RL_IMPROVER, {"curriculum": CurriculumConfig(references=("rejected", "policy-rl"), rounds=(0, 1))}),
    ],
    ids=["policy", "policy, rloo", "improver", "improver, grpo", "improver, policy-rl"],
)
def test_rl_runs_what_it_lists(
    place: MakeContext, seen: Seen, monkeypatch: pytest.MonkeyPatch, id: StageId, changes: dict[str, Any]
) -> None:
    """A first evaluation and a first round: no other shapes than those that are listed, and all of those."""
    calm = dict.fromkeys(FIGURES.values(), 0.0)
    measure = rl.measure

    def measured(*args: Any, **more: Any) -> dict[str, float]:
        measure(*args, **more)
        return calm

    monkeypatch.setattr(rl, "measure", measured)
    context = finish_parents(place(small(**changes), id, mesh=MESH))
    stopped(context)
    programs = listed(context)
    found = {str(described(args)) for _, args in seen.programs}
    assert found == {str(described(program.args)) for program in programs.values()}
    for name in ("score", "update"):
        program = programs[name]
        function, args = next(p for p in seen.programs if described(p[1]) == described(program.args))
        assert text(context.mesh, function, args) == text(context.mesh, program.function, program.args)
        assert places(args[0]) == places(program.args[0])
