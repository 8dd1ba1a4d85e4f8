"""What is known of a phase of SPA: its labels, its training, and what its model answers to held-out prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.worlds.world import Score
from pit_jax.evaluation.answers import AnswerRow
from pit_jax.files import read_metrics
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import written
from pit_jax.model.networks import Params
from pit_jax.paths import METRICS
from pit_jax.recipes.spa.labels import MODEL, SFT, Bench, Labels

MOST = 1024  # prompts or pairs that a figure is taken over
TEMPERATURE = 1.0  # of answers to held-out prompts, at which log-ratios are a KL divergence


def agreement(bench: Bench, labels: Labels, gold: Sequence[Triple]) -> dict[str, Any]:
    """How often labels agree with withheld gold ones, on the first pairs of the slice."""
    gold = gold[:MOST]
    prompts, template = [triple.prompt for triple in gold], bench.texts.template
    sides = ([triple.chosen for triple in gold], [triple.rejected for triple in gold])
    chosen_N, rejected_N = (
        labels.score(bench, prompts, [written(template, text) for text in texts]) for texts in sides
    )
    return {"pairs": len(gold), "accuracy": float(np.mean(chosen_N > rejected_N))}


def truth_of(triples: Sequence[Triple], truth: Score | None) -> np.ndarray | None:
    """By how much the truth prefers each chosen answer, [N]; None where nobody knows one."""
    if truth is None:
        return None
    return np.array([truth(row.prompt, row.chosen) - truth(row.prompt, row.rejected) for row in triples])


def known(margins_N: np.ndarray | None) -> dict[str, Any] | None:
    """How often labels are right, over the pairs whose answers are not worth the same."""
    if margins_N is None:
        return None
    differ_N = margins_N != 0
    accuracy = float(np.mean(margins_N[differ_N] > 0)) if differ_N.any() else None
    return {"pairs": int(differ_N.sum()), "accuracy": accuracy}


def trained(folder: Path) -> dict[str, Any]:
    """Means over a phase's updates, from its metrics: loss, accuracy, margin, the share of labels taken for noise, and
    how many of these, and of all, are wrong."""
    rows = [row for row in read_metrics(folder / METRICS) if row["phase"] == "train"]
    steps = np.array([row["step"] for row in rows])
    weights = np.diff(steps, prepend=0)

    def mean(name: str) -> float:
        return float(np.average([row[name] for row in rows], weights=weights))

    noisy = mean("noisy")
    return {
        "updates": int(steps[-1]),
        "loss": mean("loss"),
        "accuracy": mean("accuracy"),
        "margin": mean("rewards/margins"),
        "noisy": noisy,
        "wrong": mean("wrong"),
        "wrong of noisy": mean("noisy/wrong") / noisy if noisy else None,
    }


@dataclass(frozen=True)
class Heldout:
    """Held-out prompts that every phase answers, drawn with one key."""

    prompts: Sequence[str]
    key: jax.Array
    least: int  # tokens of a prompt's slot

    def figures(self, bench: Bench, weights: Params, truth: Score | None) -> dict[str, Any]:
        """Length, ends, KL to the SFT model in nats, and the truth's mean score, of the model in training."""
        answers, sampling = [], Sampling(TEMPERATURE)
        for chunk in bench.texts.chunks(self.prompts, least=self.least):
            answers += bench.texts.answer(weights, chunk, self.key, sampling)
        ratio_N = bench.logprobs(MODEL, self.prompts, answers) - bench.logprobs(SFT, self.prompts, answers)
        scores = None if truth is None else [truth(*both) for both in _texts(self.prompts, answers)]
        return {
            "prompts": len(self.prompts),
            "tokens": float(np.mean([len(answer.ids) for answer in answers])),
            "ended": float(np.mean([answer.ended for answer in answers])),
            "kl": float(np.mean(ratio_N)),
            "truth": None if scores is None else float(np.mean(scores)),
        }


def _texts(prompts: Sequence[str], answers: Sequence[Any]) -> list[tuple[str, str]]:
    return [(prompt, answer.text) for prompt, answer in zip(prompts, answers, strict=True)]


def of_samples(rows: Sequence[AnswerRow]) -> dict[str, Any]:
    """The samples of an iteration: their number, mean tokens, and how many ended."""
    drafts = [draft for row in rows for draft in row.drafts]
    return {
        "answers": len(drafts),
        "tokens": float(np.mean([len(draft.ids) for draft in drafts])),
        "ended": float(np.mean([draft.ended for draft in drafts])),
    }
