"""A word model: a reward model that reads no meaning, a logistic regression on the counted words of an answer.

It counts which words and neighbours an answer has, which of the prompt's words it says again, leaves out or adds, which
it says near each other that were apart in the prompt, and what it repeats. It is fitted to pairs in seconds, and errs
elsewhere than a network that was trained on the same pairs.
"""

import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
from scipy import sparse
from scipy.optimize import brentq, minimize
from scipy.special import expit

from pit_jax.batch import Triple
from pit_jax.data.text.segments import WORDS_AND_MARKS
from pit_jax.errors import UserError
from pit_jax.files import digest_of, read_json, write_json

BUCKETS = 2**18  # of the hash of a feature
NEAR = 4  # words, within which two belong together: with 8 nearly all do, and what details belong to is lost
RIDGE = 1.0  # weight of sum(w^2) / 2 beside the summed loss of a thousand pairs; 10 and 30 read worse
ITERATIONS = 100
LARGEST = float(np.finfo(np.float32).max)


class _File(TypedDict):
    buckets: list[int]
    weights: list[float]


@dataclass(frozen=True)
class WordModel:
    """The weights of the buckets that features are hashed to.

    A difference of two scores is the log of the odds that the first answer is the better one, as it is for a reward
    model that was trained with the Bradley-Terry loss: so the scores of both can be added, once these are calibrated.
    """

    weights_F: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[Triple]) -> "WordModel":
        """The one under which the chosen answers are the likeliest, by a ridge, in float32."""
        return cls(fitted(differences(pairs)).astype(np.float32))

    @classmethod
    def read(cls, path: Path, *, cure: str) -> "WordModel":
        """What `write` wrote. UserError, with the `cure`, for a file that is gone or damaged."""
        content = read_json(path, _File, cure=cure)
        if content is None:
            raise UserError(f"{path} is gone; {cure}")
        buckets, weights = content["buckets"], content["weights"]
        known = len(buckets) == len(weights) and all(0 <= bucket < BUCKETS for bucket in buckets)
        if not known or not all(abs(weight) < LARGEST for weight in weights):
            raise UserError(f"{path}: asked for as many weights as buckets below {BUCKETS}, found others; {cure}")
        weights_F = np.zeros(BUCKETS, np.float32)
        weights_F[buckets] = weights
        return cls(weights_F)

    def write(self, path: Path) -> None:
        """The weights that are not 0, in JSON."""
        (used,) = np.nonzero(self.weights_F)
        write_json(path, {"buckets": used.tolist(), "weights": self.weights_F[used].tolist()})

    @property
    def digest(self) -> str:
        return digest_of(self.weights_F.tobytes())

    def scaled(self, share: float) -> "WordModel":
        """The same, with `share` of every score."""
        return WordModel(self.weights_F * np.float32(share))

    def scores(self, prompts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """score_N [N] float64 of each answer."""
        scores_N: np.ndarray = counted(prompts, answers) @ self.weights_F.astype(float)
        return scores_N

    def gaps(self, prompts: Sequence[str], candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """By how much the score of each candidate is above that of its reference, [N] float64."""
        return self.scores(prompts, candidates) - self.scores(prompts, references)


def calibration(gaps_N: np.ndarray) -> float:
    """The share of gaps, from 0 to 1, that is the log of the odds of the labels of pairs that it was not fitted to.

    It minimises their logistic loss: temperature scaling (arXiv 1706.04599) that makes nobody surer. What is fitted to
    few pairs, or to noisy ones, is far too sure.

    By hand: gaps of 2 that are right on three pairs of four have odds of 3, so the share is log(3) / 2.

    Args:
      gaps_N: [N] of the chosen answer over the rejected one, N > 0.
    """

    def slope(share: float) -> float:
        return -float(np.mean(gaps_N * expit(-share * gaps_N)))

    if slope(0.0) >= 0:
        return 0.0
    return 1.0 if slope(1.0) <= 0 else float(brentq(slope, 0.0, 1.0))


def columns(pairs: Sequence[Triple]) -> tuple[list[str], list[str], list[str]]:
    """Prompts, chosen and rejected answers, as `gaps` takes them."""
    return [p.prompt for p in pairs], [p.chosen for p in pairs], [p.rejected for p in pairs]


def differences(pairs: Sequence[Triple]) -> sparse.csr_matrix:
    """Features of the chosen answer less those of the rejected one, [N, BUCKETS]."""
    prompts, chosen, rejected = columns(pairs)
    return counted(prompts, chosen) - counted(prompts, rejected)


def counted(prompts: Sequence[str], answers: Sequence[str]) -> sparse.csr_matrix:
    """How often each answer has each feature, [N, BUCKETS]."""
    starts, buckets, counts = array("q", [0]), array("i"), array("d")
    for prompt, answer in zip(prompts, answers, strict=True):
        found = Counter(zlib.crc32(feature.encode()) % BUCKETS for feature in features(prompt, answer))
        buckets.extend(found)
        counts.extend(found.values())
        starts.append(len(buckets))
    return sparse.csr_matrix((counts, buckets, starts), shape=(len(prompts), BUCKETS))


def features(prompt: str, answer: str) -> Iterable[str]:
    """What is counted in an answer, each as often as it is there."""
    asked, said = (WORDS_AND_MARKS.findall(text.lower()) for text in (prompt, answer))
    known, there = set(asked), set(said)
    neighbours = list(zip(said, said[1:], strict=False))
    yield from (f"word {word}" for word in said)
    yield from (f"neighbours {left} {right}" for left, right in neighbours)
    for word in said:
        yield f"{'again' if word in known else 'added'} {word}"
        yield "again" if word in known else "added"
    for word in asked:
        if word not in there:
            yield f"left out {word}"
            yield "left out"
    yield from ["repeats"] * (len(neighbours) - len(set(neighbours)))
    yield from (f"doubled {left}" for left, right in neighbours if left == right)
    phrases = set(zip(asked, asked[1:], strict=False))
    yield from ("phrase" for both in neighbours if both in phrases)
    near = {frozenset(both) for both in _near(asked)}
    for both in _near(said):
        if known.issuperset(both) and both[0] != both[1]:
            how = "together" if frozenset(both) in near else "apart"
            yield from (how, f"{how} {both[0]}", f"{how} {both[1]}", f"{how} {both[0]} {both[1]}")


def _near(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Every word with each of the NEAR words behind it."""
    return ((left, right) for i, left in enumerate(words) for right in words[i + 1 : i + 1 + NEAR])


def fitted(rows_NF: sparse.csr_matrix) -> np.ndarray:
    """Weights [F] of the logistic regression without an offset whose score of a chosen answer is the higher one."""
    used = np.unique(rows_NF.indices)
    seen_NU = rows_NF[:, used]
    ridge = RIDGE * rows_NF.shape[0] / 1000

    def loss(weights_U: np.ndarray) -> tuple[float, np.ndarray]:
        scores_N = seen_NU @ weights_U
        gradient_U = ridge * weights_U - seen_NU.T @ expit(-scores_N)
        return float(np.logaddexp(0, -scores_N).sum() + ridge * weights_U @ weights_U / 2), gradient_U

    found = minimize(loss, np.zeros(len(used)), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    weights_F = np.zeros(rows_NF.shape[1])
    weights_F[used] = found.x
    return weights_F
