"""What a system answered: texts, their lengths, and what they cost in drawn tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pit_jax.evaluation.texts import copy_rate, edit_distances
from pit_jax.improvement.pit import Answers
from pit_jax.stages.context import Context


@dataclass(frozen=True)
class Output:
    """What one system answered at one temperature."""

    texts: list[str]
    lengths_N: np.ndarray  # tokens of each text, EOS included
    ended_N: np.ndarray  # whether it ended by itself
    drawn_N: np.ndarray  # tokens drawn for it, those of drafts and reviews included
    replies: float = 1.0  # how many they make, on average over the prompts
    reference: "Output | None" = None  # the answers that these were made from


def drawn_output(context: Context, answers: Answers, round: int, reference: Output | None = None) -> Output:
    """One round of a system's answers [K + 1, N, T]; all that the reference took has been drawn for it too."""
    tokens_NT, mask_NT = np.asarray(answers.tokens_BT[round]), np.asarray(answers.mask_BT[round])
    ended_N = np.any((tokens_NT == context.data.tokenizer.eos_id) & mask_NT, axis=1)
    texts, lengths_N = context.texts(tokens_NT), mask_NT.sum(axis=1)
    if reference is None:
        return Output(texts, lengths_N, ended_N, lengths_N)
    return Output(texts, lengths_N, ended_N, reference.drawn_N + lengths_N, reference.replies + 1, reference)


def written_output(context: Context, texts: list[str]) -> Output:
    """Texts that no model drew. Lengths are those of the texts tokenised."""
    lengths_N = np.asarray([len(context.data.template.response(text)) + 1 for text in texts])
    return Output(texts, lengths_N, np.ones(len(texts), bool), np.zeros_like(lengths_N), replies=0.0)


def trail_outputs(context: Context, trail: Answers, names: Sequence[str]) -> dict[str, Output]:
    """y_0 .. y_K of a trail by name, each made from the one before."""
    found: dict[str, Output] = {}
    before: Output | None = None
    for round, name in enumerate(names):
        found[name] = before = drawn_output(context, trail, round, before)
    return found


def describe(name: str, temperature: float, output: Output, scores: np.ndarray | None) -> dict[str, Any]:
    """One row of the systems table. Copies and edits are those of the answer that was improved."""
    row: dict[str, Any] = {
        "name": name,
        "temperature": temperature,
        "length_mean": float(output.lengths_N.mean()),
        "tokens_mean": float(output.drawn_N.mean()),
        "eos_rate": float(output.ended_N.mean()),
        "copy_rate": None,
        "edit_distance": None,
        "score_mean": None,
        "score_std": None,
    }
    if output.reference is not None:
        row["copy_rate"] = copy_rate(output.texts, output.reference.texts)
        row["edit_distance"] = float(edit_distances(output.texts, output.reference.texts).mean())
    if scores is not None:
        row |= {"score_mean": float(scores.mean()), "score_std": float(scores.std())}
    return row
