"""A stage of your own: a reward model trained with a hinge loss, which RL, judges and export use in the place of R_P.

pit-jax --fork=examples/forks/hinge_reward.py --stage=all --hinge.margin=0.5 --workdir=runs/hinge
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pit_jax.fork import (
    Context,
    Mean,
    Models,
    RewardBatch,
    Stage,
    StageId,
    Task,
    by,
    fit,
    fork,
    pair_scores,
    with_head,
)


@dataclass(frozen=True)
class HingeConfig:
    margin: float = 1.0
    """How far apart the scores of chosen and rejected should be."""
    steps: int = 600
    """Updates."""


def hinge_loss(chosen_B: jax.Array, rejected_B: jax.Array, *, margin: float) -> tuple[jax.Array, dict[str, Mean]]:
    """Mean over pairs of max(0, margin - (chosen - rejected)).

    By hand, margin 1: scores (2, 0) and (0, 1) give max(0, 1 - 2) = 0 and max(0, 1 + 1) = 2, a loss of 1.
    """
    difference_B = chosen_B - rejected_B
    losses_B = jnp.maximum(0.0, margin - difference_B)
    return jnp.mean(losses_B), {"loss": Mean.of(losses_B), "accuracy": Mean.of(difference_B > 0)}


def run(context: Context) -> None:
    """Over the policy's SFT weights, on the pairs of the built-in reward model."""
    knobs, common, network = context.section(HingeConfig), context.config.rm, context.scalar_model
    models = Models(context)

    def loss(params: dict, batch: RewardBatch, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
        return hinge_loss(*pair_scores(network, params, batch), margin=knobs.margin)

    task = Task(
        loss=loss,
        make_batch=RewardBatch,
        rows=context.data.rows("rm", "reward"),
        heldout=context.data.rows("heldout", "reward"),
        optimizer=common.optimizer,
        steps=knobs.steps,
        batch_size=common.batch_size,
        accumulate=common.accumulate,
        seed=context.config.seed,
        score=by("accuracy"),
    )
    fit(context, task, models, lambda: with_head(context, models, "hinge"))


fork(
    Stage(
        name="hinge",
        role="policy",
        run=run,
        help="the reward model with a hinge loss",
        parents=lambda config: (StageId("sft", "policy"),),
        init_from=StageId("sft", "policy"),
        leaves="scalar",
        config=HingeConfig,
        replaces=StageId("rm", "policy"),
        curves=("accuracy",),
        trial=("--hinge.steps=6",),
    )
)
