"""RL of three weights: the whole loop of the stage, its checkpoints and its curriculum, over models that cost nothing.

Sampling, scoring and learning are stand-ins that use everything they are given, so that whatever changes in a state
changes what a round does.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.batch import Completions, DecodeSpec, Experience, RolloutPrompts
from pit_jax.config import Config, CurriculumConfig, MonitorsConfig
from pit_jax.inference.engine import Engine, improver_prompt
from pit_jax.inference.sampling import Sampling
from pit_jax.masked import Mean
from pit_jax.parallel.sharding import replicated
from pit_jax.recipes import rl
from pit_jax.recipes.catalogue import RL_POLICY
from pit_jax.rl.monitors import STEP, Monitor
from pit_jax.rl.roles import Roles
from pit_jax.run.context import Context
from pit_jax.training.state import Partition, TrainState
from tests.metric_rows import repeatable
from tests.world import MakeContext

LEARNING_RATE = 0.05
UNLIMITED = MonitorsConfig(
    max_step_kl=1e9, max_kl=1e9, min_entropy=0.0, max_repetition=1.0, max_second_gap_fall=1e9, max_disagreement=1e9
)


def config_of(rounds: tuple[int, ...] = (2, 2), *, second_gap: bool = False, **rl: Any) -> Config:
    """Rounds of four responses in two minibatches, evaluated after each, with no limit; `rl` are knobs of RL."""
    base = Config()
    references = ("rejected", "chosen", "policy-rl")[: len(rounds)]
    switching = {name: rl.pop(name) for name in ("switch", "patience", "success", "anchor") if name in rl}
    knobs = {
        "batch_size": 4,
        "minibatches": 2,
        "epochs": 1,
        "evaluate_every": 1,
        "heldout_prompts": 4,
        "stop_kl": 0.0,
        "select_kl": 1e9,
        "curriculum": CurriculumConfig(references=references, rounds=rounds, **switching),
        "monitors": replace(UNLIMITED, **rl.pop("monitors", {})),
        **rl,
    }
    return replace(
        base,
        rl=replace(base.rl, **knobs),
        rm=replace(base.rm, second_gap_steps=int(second_gap)),
        checkpoint=replace(base.checkpoint, keep=99),
    )


def token_logprob(params: Any) -> jax.Array:
    """Of every token alike; the sampler and the trainer agree on it."""
    return -2.0 - jnp.tanh(jnp.sum(params["w"]))


@partial(jax.jit, static_argnames="samples")
def complete(
    params: Any,
    prompt_BP: jax.Array,
    mask_BP: jax.Array,
    key: jax.Array,
    sampling: Sampling,
    first: int,
    *,
    samples: int,
) -> Completions:
    """Tokens that depend on the key, the prompt and the weights."""
    prompt_BP, mask_BP = (jnp.repeat(x, samples, axis=0) for x in (prompt_BP, mask_BP))
    rows, slot = prompt_BP.shape[0], 8
    pull_B1 = jnp.mean(jnp.where(mask_BP, prompt_BP, 0).astype(jnp.float32), axis=1, keepdims=True) + params["w"][0]
    noise_BT = jax.random.uniform(key, (rows, slot)) * sampling.temperature
    tokens_BT = 6 + jnp.mod(jnp.floor(30 * jnp.mod(noise_BT + pull_B1, 1.0)), 30.0).astype(jnp.int32)
    mask_BT = jnp.arange(slot)[None] < 1 + jnp.mod(tokens_BT[:, :1], slot)
    mask_BT = mask_BT & jnp.any(mask_BP, axis=1, keepdims=True)
    logprobs_BT = jnp.where(mask_BT, token_logprob(params), 0.0)
    return Completions(jnp.where(mask_BT, tokens_BT, 0), mask_BT, logprobs_BT, jnp.ones(rows, bool))


prompts_of = jax.jit(improver_prompt, static_argnames="spec")


class ToyEngine(Engine):
    """An engine whose completions cost nothing, and whose programs are compiled once for all engines."""

    improver_prompt: Any

    to_decode: Any

    def __init__(self, model: Any, spec: DecodeSpec, *mesh: Any):
        super().__init__(model, spec)
        self.to_decode = self.decoding
        self.completing = lambda samples: partial(complete, samples=samples)
        self.improver_prompt = partial(prompts_of, spec=spec)

    def decoding(self, params: Any) -> Any:
        return params


def height(tokens_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    total_B = jnp.sum(jnp.where(mask_BT, tokens_BT, 0), axis=1).astype(jnp.float32)
    return total_B / (10.0 * jnp.maximum(jnp.sum(mask_BT, axis=1), 1).astype(jnp.float32))


def score(
    params: Any, frozen: Any, prompts: RolloutPrompts, drawn: Completions, text_B: jax.Array, kl_coef: jax.Array
) -> tuple[Experience, dict[str, Mean]]:
    """How much larger the tokens of a response are than those of its reference, less the KL to the anchor."""
    gap_B = height(drawn.tokens_BT, drawn.mask_BT) - height(prompts.reference_BT, prompts.reference_mask_BT)
    gap_B = gap_B + 0.01 * jnp.sum(frozen["scorer"]["w"])
    kl = token_logprob(params["policy"]) - token_logprob(frozen["anchor"])
    rewards_B = gap_B + text_B - kl_coef * kl
    advantages_BT = jnp.where(drawn.mask_BT, (rewards_B - 0.5 * jnp.mean(rewards_B))[:, None], 0.0)
    experience = Experience(
        tokens_BL=jnp.concatenate([prompts.prompt_BP, drawn.tokens_BT], axis=1),
        segments_BL=jnp.concatenate([prompts.prompt_mask_BP, drawn.mask_BT], axis=1).astype(jnp.int32),
        mask_BT=drawn.mask_BT,
        old_logprobs_BT=drawn.logprobs_BT,
        advantages_BT=advantages_BT,
        scores_B=gap_B,
    )
    metrics = {
        "objective/scores": Mean.of(gap_B + text_B),
        "objective/success": Mean.of(gap_B > 0.0),
        "objective/kl": Mean.of(jnp.broadcast_to(kl, gap_B.shape)),
        "objective/entropy": Mean.of(-drawn.logprobs_BT, drawn.mask_BT),
        "val/repetition": Mean.of(0.1 * height(drawn.tokens_BT, drawn.mask_BT)),
        "val/reward": Mean.of(rewards_B),
    }
    if "second-gap" in frozen:
        second_B = jnp.sum(frozen["second-gap"]["w"]) - gap_B
        metrics["second-gap/scores"] = Mean.of(second_B)
        metrics["second-gap/disagreement"] = Mean.of(jnp.abs(gap_B - second_B))
    return experience, metrics


def loss(params: Any, batch: Experience, key: jax.Array) -> tuple[jax.Array, dict[str, Mean]]:
    log_ratio_BT = token_logprob(params["policy"]) - batch.old_logprobs_BT
    losses_BT = -batch.advantages_BT * jnp.exp(log_ratio_BT)
    mean, mask_BT = Mean.of(losses_BT, batch.mask_BT), batch.mask_BT
    return mean.sum / mean.count, {
        "loss": mean,
        "val/ratio": Mean.of(jnp.exp(log_ratio_BT), mask_BT),
        STEP: Mean.of(0.5 * jnp.square(log_ratio_BT), mask_BT),
    }


def train_step(state: TrainState, batch: Experience, frozen: Any = None) -> tuple[TrainState, dict[str, Mean]]:
    """Plain gradient descent."""
    (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, state.key)
    params = jax.tree.map(lambda p, g: p - LEARNING_RATE * g, state.params, grads)
    return replace(state, params=params, step=state.step + 1), metrics


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins in the place of the models."""
    monkeypatch.setattr(rl, "Engine", ToyEngine)
    monkeypatch.setattr(rl, "make_score", lambda *_, **__: score)
    monkeypatch.setattr(rl, "make_loss", lambda *_, **__: loss)
    monkeypatch.setattr(rl, "make_train_step", lambda *_, **__: train_step)
    monkeypatch.setattr(rl, "require_gates", lambda context: {})


def roles_of(context: Context) -> Roles:
    def model(*numbers: float) -> Any:
        return {"w": jax.device_put(np.array(numbers, np.float32), replicated(context.mesh))}

    frozen = {"anchor": model(0.1, 0.2, -0.2), "scorer": model(1.0, 2.0, 3.0)}
    frozen |= {"second-gap": model(1.0, 1.0, 1.0)} if context.config.rm.second_gap_steps else {}
    return Roles(Partition(frozen["anchor"]), None, frozen, {RL_POLICY: model(0.3, -0.3, 0.0)})


@dataclass(frozen=True)
class Ended:
    """What a run came to."""

    rows: list[dict[str, Any]]
    best: tuple[int, str] | None
    over: list[Monitor]


def rows_of(context: Context) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on how fast it went."""
    return repeatable(context.folder.path)


def evaluated(ended: Ended) -> list[int]:
    return [row["step"] for row in ended.rows if row["phase"] == "eval"]


def train(context: Context) -> Ended:
    """From the newest checkpoint to the end."""
    with jax.set_mesh(context.mesh):
        best, over, _ = rl.train(context, roles_of(context))
    return Ended(rows_of(context), best, over)


@pytest.fixture
def run(toy: None, place: MakeContext) -> Callable[[Config], tuple[Context, Ended]]:
    """run(config) -> (its context, what it came to)."""

    def make(config: Config) -> tuple[Context, Ended]:
        context = place(config)
        context.folder.path.mkdir(exist_ok=True)
        return context, train(context)

    return make
