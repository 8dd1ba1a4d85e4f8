"""Iterated improvement (PIT, arXiv 2310.00898, Algorithm 2): y_0 ~ M_P(x), then y_k ~ M_PIT(x, y_{k-1})."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from pit_jax.batch import Answer
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.stopping import goes_on
from pit_jax.inference.texts import Chunk, TextEngine
from pit_jax.model.networks import Params

Gap = Callable[[Sequence[str], Sequence[Answer], Sequence[Answer]], np.ndarray]
"""gap(prompts, candidates, references) -> gap_N, as the model says it, in one order."""


def in_both_orders(
    gap: Gap, prompts: Sequence[str], candidates: Sequence[Answer], references: Sequence[Answer]
) -> np.ndarray:
    """(gap(a over b) - gap(b over a)) / 2, [N]: 0 for a copy, the opposite where two texts change places."""
    return (gap(prompts, candidates, references) - gap(prompts, references, candidates)) / 2


@dataclass
class Trail:
    """One prompt, its original y_0 and what was drawn from it: y_1 .. y_K, each a rewrite of the one before."""

    prompt: str
    original: Answer
    drafts: list[Answer] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    """(gap(y_k over y_{k-1}) - gap(y_{k-1} over y_k)) / 2 of each draft, 0 for a copy. Empty without a gap."""

    @property
    def answers(self) -> list[Answer]:
        """y_0 .. y_K."""
        return [self.original, *self.drafts]


def extend(
    texts: TextEngine,
    improver: Params,
    chunk: Chunk,
    trails: Sequence[Trail],
    key: jax.Array,
    sampling: Sampling,
    *,
    rounds: int,
    gap: Gap | None = None,
    threshold: float = -np.inf,
) -> bool:
    """Draw what the trails of a chunk lack of `rounds` drafts, and their gaps; True where anything was drawn.

    A trail whose last gap lies below `threshold` is over, and costs nothing more. y_k draws from fold_in(key, k) for
    the whole chunk: a trail that is extended later, in this process or another, meets the drafts that it would have met
    at once, and two improvers with one key improve alike.
    """
    drew = False
    for round in range(1, rounds + 1):
        wanted = [len(trail.drafts) < round and goes_on(trail.gaps, threshold) for trail in trails]
        if not any(wanted):
            continue
        before = [trail.answers[min(round - 1, len(trail.drafts))] for trail in trails]
        references, round_key = [answer.ids for answer in before], jax.random.fold_in(key, round)
        drafts = texts.rewrite(improver, chunk, references, round_key, sampling, wanted=wanted)
        live = [i for i, asked in enumerate(wanted) if asked]
        for i in live:
            trails[i].drafts.append(drafts[i])
        if gap is not None:
            prompts, old = [trails[i].prompt for i in live], [before[i] for i in live]
            gained_N = in_both_orders(gap, prompts, [drafts[i] for i in live], old)
            for i, gained in zip(live, gained_N.tolist(), strict=True):
                trails[i].gaps.append(gained)
        drew = True
    return drew
