"""What a rollout is rewarded with: the score of a reward or gap model, and functions of the texts beside it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import Completions, DecodeSpec, Responses, RolloutPrompts, Triple
from pit_jax.config import Config, RlConfig
from pit_jax.data.text.word_model import WordModel
from pit_jax.errors import UserError
from pit_jax.inference.engine import with_reference
from pit_jax.masked import Mean
from pit_jax.model.networks import Params, ScalarModel
from pit_jax.model.scoring import response_scores
from pit_jax.parallel.hosts import from_main, whole
from pit_jax.run.provenance import StageId
from pit_jax.table import Table

ModelReward = Callable[[ScalarModel, Params, RolloutPrompts, Responses], jax.Array]
"""reward(model, params, prompts, responses) -> score_B."""


def plain_score(model: ScalarModel, params: Params, prompts: RolloutPrompts, responses: Responses) -> jax.Array:
    """score_B of a response behind its prompt: r(x, y) for the policy, r(x, y, y_ref) for the improver."""
    return response_scores(model, params, prompts.prompt_BP, prompts.prompt_mask_BP, responses)


def centered_gap(model: ScalarModel, params: Params, prompts: RolloutPrompts, responses: Responses) -> jax.Array:
    """score_B = r(x, y, y_ref) - r(x, y_ref, y_ref): copying the reference, its EOS included, earns 0."""
    reference = Responses(prompts.reference_BT, prompts.reference_mask_BT)
    return plain_score(model, params, prompts, responses) - plain_score(model, params, prompts, reference)


def gap_of_both_orders(
    model: ScalarModel, params: Params, prompts: RolloutPrompts, responses: Responses, *, spec: DecodeSpec
) -> jax.Array:
    """score_B = (r(x, y, y_ref) - r(x, y_ref, y)) / 2, the mean of what is said of two texts in either place.

    Copying earns 0, and a bias towards either place is gone: it is in both terms.
    """
    prefix, reference = (
        (prompts.prefix_BP, prompts.prefix_mask_BP),
        Responses(prompts.reference_BT, prompts.reference_mask_BT),
    )
    exchanged = with_reference(*prefix, responses, spec=spec)
    return (plain_score(model, params, prompts, responses) - response_scores(model, params, *exchanged, reference)) / 2


def score_difference(model: ScalarModel, params: Params, prompts: RolloutPrompts, responses: Responses) -> jax.Array:
    """score_B = r(x, y) - r(x, y_ref) of a reward model that reads one answer at a time (ablation of PIT Sec. 4.5)."""
    reference = Responses(prompts.reference_BT, prompts.reference_mask_BT)
    plain = prompts.plain_BP, prompts.plain_mask_BP
    return response_scores(model, params, *plain, responses) - response_scores(model, params, *plain, reference)


def reward_of(config: RlConfig, role: str, spec: DecodeSpec) -> ModelReward:
    """What the scorer's parameters make of a rollout in a model's RL."""
    if role == "policy":
        return plain_score
    if config.reward == "difference":
        return score_difference
    gaps: dict[str, ModelReward] = {
        "both-orders": partial(gap_of_both_orders, spec=spec),
        "centred": centered_gap,
        "plain": plain_score,
    }
    return gaps[config.gap]


def scorer_of(config: Config, role: str) -> StageId:
    """The stage whose reward model rewards the RL of a model: the gap model is the improver's."""
    return StageId("rm", "policy" if config.rl.reward == "difference" else role)


@dataclass(frozen=True)
class RewardRow:
    """The row of the data that a rollout's prompt comes from, and the reference that its prompt held ("" for none)."""

    prompt: str
    chosen: str
    rejected: str
    reference: str


@dataclass(frozen=True)
class TextReward:
    """A reward that is a function of texts, on the host between sampling and scoring."""

    name: str
    score: Callable[[Sequence[str], Sequence[str], Sequence[RewardRow]], Sequence[float]]
    """score(prompts, responses, rows) -> a number each; deterministic, or a resumed run is another run."""
    weight: float = 1.0


TEXT_REWARDS: Table[TextReward] = Table("text reward")


@dataclass(frozen=True)
class Weighted:
    """A text reward as a run asks for it."""

    reward: TextReward
    weight: float

    @property
    def name(self) -> str:
        return self.reward.name

    def __call__(self, prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> np.ndarray:
        """values_N, float32, not weighted. UserError for a wrong number of values and for one that is not finite."""
        values: Any = self.reward.score(prompts, responses, rows)
        try:
            values_N = np.array(values, np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(f"text reward {self.name}: asked for numbers, found {values!r:.80} ({error})") from error
        if values_N.shape != (len(prompts),):
            raise UserError(
                f"text reward {self.name}: asked for one number for each of {len(prompts)} responses, found shape "
                f"{values_N.shape}, the first for {responses[0]!r:.200}"
            )
        bad = np.flatnonzero(~np.isfinite(values_N))
        if bad.size:
            index = int(bad[0])
            raise UserError(
                f"text reward {self.name}: found {values_N[index]} for the response {responses[index]!r:.200} to the "
                f"prompt {prompts[index]!r:.200}; return a finite number for every text"
            )
        return values_N


def text_rewards_of(config: RlConfig, role: str) -> list[Weighted]:
    """The text rewards of a model's RL. UserError for an unknown name, one named twice, or a weight that is none."""
    asked = config.policy_rewards if role == "policy" else config.improver_rewards
    rewards = []
    for entry in asked:
        name, colon, weight = entry.partition(":")
        reward = TEXT_REWARDS[name]
        try:
            rewards.append(Weighted(reward, float(weight) if colon else reward.weight))
        except ValueError as error:
            raise UserError(f"--rl.{role}-rewards {entry}: the weight must be a number, as in {name}:0.5") from error
        if not math.isfinite(rewards[-1].weight):
            raise UserError(f"--rl.{role}-rewards {entry}: the weight must be finite")
    if len({weighted.name for weighted in rewards}) != len(rewards):
        raise UserError(f"--rl.{role}-rewards {' '.join(asked)}: name each text reward once")
    return rewards


def word_reward(model: WordModel, role: str, weight: float) -> Weighted:
    """What a word model adds to the reward of a model's RL: its score, of the improver less that of the reference."""

    def score(prompts: Sequence[str], responses: Sequence[str], rows: Sequence[RewardRow]) -> Sequence[float]:
        if role == "policy":
            scores_N = model.scores(prompts, responses)
        else:
            scores_N = model.gaps(prompts, responses, [row.reference for row in rows])
        found: list[float] = scores_N.tolist()
        return found

    return Weighted(TextReward("word-model", score), weight)


@dataclass(frozen=True)
class TextScorer:
    """The text rewards of a training, asked once a rollout."""

    rewards: Sequence[Weighted]
    read: Callable[[Any], list[str]]
    """Texts of token rows [N, T], special tokens left out."""

    def __call__(
        self, prompts: RolloutPrompts, drawn: Completions, triples: Sequence[Triple]
    ) -> tuple[np.ndarray, dict[str, Mean]]:
        """(what they add to each score [N] float32, their means as metrics); rows beyond the `triples` only fill up."""
        rows = drawn.tokens_BT.shape[0]
        total_N, metrics = np.zeros(rows, np.float32), dict[str, Mean]()
        if not self.rewards:
            return total_N, metrics
        real = len(triples)
        responses, references = (
            self.read(whole(tokens_BT)[:real]) for tokens_BT in (drawn.tokens_BT, prompts.reference_BT)
        )
        asked = [triple.prompt for triple in triples]
        reward_rows = [
            RewardRow(triple.prompt, triple.chosen, triple.rejected, reference)
            for triple, reference in zip(triples, references, strict=True)
        ]

        def score() -> np.ndarray:
            return np.stack([reward(asked, responses, reward_rows) for reward in self.rewards])

        for reward, values_N in zip(self.rewards, from_main(score).astype(np.float32), strict=True):
            total_N[:real] += np.float32(reward.weight) * values_N
            metrics[f"reward/{reward.name}"] = Mean(jnp.float32(values_N.sum()), jnp.float32(real))
        return total_N, metrics
