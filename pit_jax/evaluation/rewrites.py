"""What rewriting did to the policy's answers: what was kept and mended, what was added and broken."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pit_jax.config import Config
from pit_jax.data.worlds.world import Flaws
from pit_jax.evaluation.gap_quality import accuracy, correlation
from pit_jax.evaluation.stats.comparison import Comparison, compare
from pit_jax.evaluation.stats.means import Estimate, estimate
from pit_jax.evaluation.systems import SystemId
from pit_jax.evaluation.texts import kept_and_new


@dataclass(frozen=True)
class FlawCounts:
    """Over all prompts: the flaws of the references, those that the rewrites have no more, and those that only they
    have. One that occurs twice is two."""

    of: int
    mended: int
    made: int


@dataclass(frozen=True)
class GapCheck:
    """The gap judge's verdicts on rewrites against their references, held against the true difference.

    They are of the answers that are compared; evaluate/gap_outputs.json is of answers drawn as RL draws them.

    `accuracy` is how often it has the sign of the truth (a gap of 0 is right half the time) and `correlation`
    Pearson's, both over the pairs whose true scores differ; None without any. `above_zero` is the system that takes
    the rewrite where its gap is above 0 (a share `taken` of all prompts) and the reference elsewhere, against the
    reference, by the truth.
    """

    pairs: int
    accuracy: float | None
    correlation: float | None
    taken: float
    above_zero: Comparison


@dataclass(frozen=True)
class RewriteRow:
    """The answers of a system that improves against the policy's answers, which its first round was given.

    Later rounds are measured against the same answers, not against the round before, so that rows can be compared.
    `kept` is the share of the policy's words that are still there, `new` the share of the rewrite's words that the
    policy did not write (`texts.kept_and_new`), `copied` the share of exact copies.
    """

    system: SystemId
    temperature: float
    kept: Estimate
    new: Estimate
    copied: Estimate
    flaws: FlawCounts | None
    gap: GapCheck | None


def rewrite_row(
    config: Config,
    system: SystemId,
    temperature: float,
    rewrites: Sequence[str],
    references: Sequence[str],
    *,
    flaws: FlawCounts | None,
    gap: GapCheck | None,
) -> RewriteRow:
    """Words kept and new, and copies, as means over prompts with their intervals.

    By hand: "bring a cake" is copied once, and once made "please bring two cakes", which keeps "bring". Kept are 1 and
    1 / 3, mean 2 / 3; new are 0 and 3 / 4, mean 3 / 8; half are copies.

    Args:
        rewrites: one text a prompt.
        references: the policy's.
        flaws, gap: of the same texts, where a truth is known.

    Raises:
        UserError: no prompt, not one reference a rewrite, no resample.
    """
    kept_N, new_N = kept_and_new(rewrites, references)
    copied_N = np.array([text == reference for text, reference in zip(rewrites, references, strict=True)])
    kept, new, copied = (
        estimate(values_N, resamples=config.evaluate.resamples, seed=config.seed)
        for values_N in (kept_N, new_N, copied_N)
    )
    return RewriteRow(system, temperature, kept, new, copied, flaws, gap)


def count_flaws(flaws: Flaws, prompts: Sequence[str], rewrites: Sequence[str], references: Sequence[str]) -> FlawCounts:
    """Flaws of each rewrite against those of its reference, by name, summed over the prompts.

    By hand: a reference with the flaws topic, topic and kind, and a rewrite with topic and closing: of 3 flaws 2 are
    mended (a topic and the kind), and 1 is made.
    """
    of, mended, made = 0, 0, 0
    for prompt, rewrite, reference in zip(prompts, rewrites, references, strict=True):
        before, after = Counter(flaws(prompt, reference)), Counter(flaws(prompt, rewrite))
        of += before.total()
        mended += (before - after).total()
        made += (after - before).total()
    return FlawCounts(of, mended, made)


def check_gap(config: Config, gaps_N: np.ndarray, truth_N: np.ndarray) -> GapCheck:
    """What the gap says of rewrites against what is true.

    By hand: gaps of 2, -1, 1 and 3 for true differences of 1, -2, -1 and 0. Three pairs differ in truth, two of them
    have the right sign. The first, third and last gap are above 0: a win, a loss and a tie, and the second stays the
    reference, a tie: delta 25 - 25 = 0.

    Args:
        gaps_N: [N] the judge's, of each rewrite over its reference in both orders.
        truth_N: [N] true score of the rewrite minus that of its reference.

    Raises:
        UserError: as `compare`.
    """
    knobs, taken_N, differ_N = config.evaluate, gaps_N > 0, truth_N != 0
    selected_N, reference_N = np.where(taken_N, truth_N, 0.0), np.zeros_like(truth_N)
    known = bool(differ_N.any())
    return GapCheck(
        pairs=int(differ_N.sum()),
        accuracy=accuracy((gaps_N * np.sign(truth_N))[differ_N]) if known else None,
        correlation=correlation(gaps_N[differ_N], truth_N[differ_N]) if known else None,
        taken=float(taken_N.mean()),
        above_zero=compare(
            selected_N, reference_N, tie_margin=knobs.tie_margin, resamples=knobs.resamples, seed=config.seed
        ),
    )
