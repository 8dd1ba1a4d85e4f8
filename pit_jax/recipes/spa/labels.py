"""What calls one of a model's own answers better: its implicit reward against the SFT model, and what SPA is held to.

THE list of --spa.labels. A score compares answers to one prompt alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pit_jax.batch import Answer, PromptBatch, Responses
from pit_jax.inference.texts import TextEngine
from pit_jax.model.networks import LanguageModel, Params
from pit_jax.model.scoring import behind, response_logprobs
from pit_jax.table import Table

MODEL, SFT, PREVIOUS, REWARD = "model", "sft", "previous", "reward"


@dataclass(frozen=True)
class Bench:
    """Models by the part that they play: the one in training, the SFT model, the one of the iteration before the last,
    and the reward model."""

    texts: TextEngine
    logprob: Any
    """logprob(params, rows, answers) -> summed log-probs [B]; jitted."""
    models: Mapping[str, Params]

    def logprobs(self, part: str, prompts: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
        """[N], of all tokens of each answer and of its end, which a pair in training has too."""
        return self.texts.scored(prompts, {"answers": answers}, partial(self.logprob, self.models[part]))


def make_logprob(model: LanguageModel) -> Any:
    """The program of a Bench."""

    def logprob(params: Params, rows: PromptBatch, answers: Responses) -> jax.Array:
        placed, slot = behind(rows.prompt_BP, rows.prompt_mask_BP, answers), answers.tokens_BT.shape[1]
        logprobs_BT = response_logprobs(model, params, *placed, slot=slot, temperature=1.0)
        return jnp.sum(jnp.where(answers.mask_BT, logprobs_BT, 0.0), axis=1)

    return jax.jit(logprob)


Score = Callable[[Bench, Sequence[str], Sequence[Answer]], np.ndarray]


@dataclass(frozen=True)
class Labels:
    """Scores of answers, [N], by name, and whose parts in a Bench they need."""

    name: str
    score: Score
    parts: tuple[str, ...]


def _ratio(against: str) -> Score:
    """log pi(y | x) - log pi_against(y | x), summed over tokens: SPA Eq. 7 without beta, which turns no label."""

    def score(bench: Bench, prompts: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
        return bench.logprobs(MODEL, prompts, answers) - bench.logprobs(against, prompts, answers)

    return score


def _likelihood(bench: Bench, prompts: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
    return bench.logprobs(MODEL, prompts, answers)


def _reward(bench: Bench, prompts: Sequence[str], answers: Sequence[Answer]) -> np.ndarray:
    return bench.texts.scores(bench.models[REWARD], prompts, answers)


LABELS: Table[Labels] = Table(
    "source of labels",
    Labels("sft", _ratio(SFT), (MODEL, SFT)),
    Labels("previous", _ratio(PREVIOUS), (MODEL, PREVIOUS)),
    Labels("likelihood", _likelihood, (MODEL,)),
    Labels("reward", _reward, (REWARD,)),
)
