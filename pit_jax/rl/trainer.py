"""One round of RL: its prompts, its rollout, its minibatches, and what the state keeps of it."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pit_jax.batch import Completions, Experience, RolloutPrompts, Triple
from pit_jax.config import RlConfig
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.masked import Mean
from pit_jax.model.networks import Params
from pit_jax.objectives.ppo import AdaptiveKL
from pit_jax.parallel.sharding import batch_sharding, put, replicated
from pit_jax.rl.curriculum import Place, providers_of
from pit_jax.rl.rewards import TextScorer
from pit_jax.rl.roles import Roles
from pit_jax.rl.rollout import Metrics, provider_metrics
from pit_jax.rl.supply import Supply
from pit_jax.training.clock import Clock
from pit_jax.training.sharing import SharedJit
from pit_jax.training.state import TrainState


@dataclass(frozen=True)
class Trainer:
    """What a round needs, bound once: programs, models, prompts. It holds no state of the training."""

    config: RlConfig
    role: str
    dtype: str
    seed: int
    mesh: Mesh
    engine: Engine
    score: SharedJit  # of rollout.make_score
    roles: Roles
    supply: Supply
    triples: Sequence[Triple]
    texts: TextScorer
    key: jax.Array

    def to_decode(self, state: TrainState) -> Params:
        """The policy as it draws until the next update."""
        weights: Params = self.engine.to_decode(self.roles.policy.combine(state.params["policy"]))
        return weights

    def rollout(
        self,
        state: TrainState,
        weights: Params,
        prompts: RolloutPrompts,
        triples: Sequence[Triple],
        key: jax.Array,
        anchor: Params | None = None,
        clock: Clock | None = None,
        samples: int = 1,
    ) -> tuple[Completions, Experience, Metrics]:
        """Sample with `to_decode(state)`, ask the text rewards, score. `anchor`: another one than the SFT model.

        Every `samples` prompts are the same one, which is read once for all of its responses.

        With a `clock`, what has passed until the sampling is done is its lap "rollout". It is waited for where text
        rewards wait for it too, or once the scoring is queued behind it, so that no device waits.

        The sampler's own log-probs stay the `old` ones: they are those of the distribution that was drawn from, so that
        the ratio corrects for what merged adapters and the compute dtype change as for any other step off the policy.
        """
        params = self.roles.whole(state.params)
        frozen = self.roles.frozen if anchor is None else {**self.roles.frozen, "anchor": anchor}
        sampling = Sampling(self.config.temperature)
        asked = prompts.prompt_BP, prompts.prompt_mask_BP
        each = asked if samples == 1 else _first_of_each(asked, samples=samples, sharding=batch_sharding(self.mesh))
        drawn = self.engine.completing(samples)(weights, *each, key, sampling, 0)
        if clock is not None and self.texts.rewards:
            clock.lap("rollout", drawn.tokens_BT)
        text_N, text_metrics = self.texts(prompts, drawn, triples)
        text_B = put(text_N, batch_sharding(self.mesh))
        experience, metrics = self.score(params, frozen, prompts, drawn, text_B, state.extras["kl_coef"])
        if clock is not None and not self.texts.rewards:
            clock.lap("rollout", drawn.tokens_BT)
        return drawn, experience, metrics | text_metrics

    def round(
        self,
        state: TrainState,
        weights: Params,
        round: int,
        progress: Place,
        anchor: Params | None,
        clock: Clock | None = None,
    ) -> tuple[Experience, Metrics]:
        """The experience of one round; `anchor` as `anchor` gives it, `clock` as of `rollout`."""
        improver = self.role == "improver"
        names = providers_of(self.config.curriculum.references[progress.phase])
        if improver:
            prompts, numbers = self.supply.improving(round, names, weights)
        else:
            prompts, numbers = self.supply.plain(round)
        triples = [self.triples[i] for i in numbers]
        key = jax.random.fold_in(self.key, round)
        moved = None if anchor is None else self.roles.policy.combine(anchor)
        samples = self.supply.samples
        _, experience, metrics = self.rollout(state, weights, prompts, triples, key, moved, clock, samples)
        return experience, metrics | (_of_providers(experience.scores_B, names=names) if improver else {})

    def anchor(self, state: TrainState, progress: Place) -> Params | None:
        """A moving anchor's trainable part in this phase, which follows when a phase begins; None for the SFT model.

        Until a phase begins it is the state's own, there until the next update, which donates the state.
        """
        if "anchor" not in state.extras:
            return None
        if _begins(progress, state):
            return jax.tree.map(jnp.copy, state.params["policy"])
        kept: Params = state.extras["anchor"]["policy"]
        return kept

    def minibatches(self, experience: Experience, round: int) -> Iterator[Experience]:
        """The rollouts of a round in `minibatches` pieces, reshuffled in every epoch."""
        size = self.config.batch_size // self.config.minibatches
        for epoch in range(self.config.epochs):
            order = np.random.default_rng((self.seed, round, epoch)).permutation(self.config.batch_size)
            for i in range(self.config.minibatches):
                rows = put(order[i * size : (i + 1) * size], replicated(self.mesh))
                yield _take(rows, experience, sharding=batch_sharding(self.mesh))

    def next_extras(
        self, state: TrainState, progress: Place, anchor: Params | None, metrics: Metrics
    ) -> tuple[dict[str, Any], Metrics]:
        """(extras after a round, with the KL coefficient moved; what is logged of them)."""
        config, extras = self.config, dict(state.extras)
        count = jnp.ones((), jnp.float32)
        logged = {
            "kl_coef": Mean(extras["kl_coef"], count),
            "curriculum/phase": Mean(jnp.float32(progress.phase), count),
        }
        if config.kl_target > 0:
            controller = AdaptiveKL(target=config.kl_target, horizon=config.kl_horizon)
            kl = jnp.float32(metrics["objective/kl"].value)
            extras["kl_coef"] = controller.update(extras["kl_coef"], kl, config.batch_size)
        if "anchor" in extras and _begins(progress, state):
            extras["anchor"] = {"policy": anchor}
        success = float(metrics["objective/success"].value)
        extras["curriculum"] = dataclasses.replace(progress, success=success).arrays()
        return extras, logged


def _begins(progress: Place, state: TrainState) -> bool:
    """Whether the round of `progress` is the first of its phase."""
    return progress.phase > Place.read(state.extras["curriculum"]).phase


@jax.jit
def token_counts(experience: Experience) -> tuple[jax.Array, jax.Array]:
    """(real tokens of prompts and responses, of responses alone), int32."""
    return jnp.sum(experience.segments_BL > 0, dtype=jnp.int32), jnp.sum(experience.mask_BT, dtype=jnp.int32)


_of_providers = jax.jit(provider_metrics, static_argnames="names")


@partial(jax.jit, static_argnames=("samples", "sharding"))
def _first_of_each(prompts: tuple[jax.Array, jax.Array], samples: int, sharding: Any) -> tuple[jax.Array, jax.Array]:
    """Tokens and mask of the first of every `samples` rows."""
    first = (x_BP.reshape(-1, samples, x_BP.shape[1])[:, 0] for x_BP in prompts)
    tokens_BP, mask_BP = (jax.lax.with_sharding_constraint(x_BP, sharding) for x_BP in first)
    return tokens_BP, mask_BP


@partial(jax.jit, static_argnames="sharding")
def _take(rows: jax.Array, tree: Any, sharding: Any) -> Any:
    taken = jax.tree.map(lambda x: x[rows], tree)
    return jax.lax.with_sharding_constraint(taken, jax.tree.map(lambda _: sharding, taken))
