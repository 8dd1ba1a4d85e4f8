"""Ratings of several systems from games between two at a time: Elo, and Bradley-Terry by maximum likelihood.

Elo depends on the order of the games, although a set of comparisons has none; Bradley-Terry does not. Table 3 of PIT
(arXiv 2310.00898) is Elo over 11 systems, and its authors see places change with the shuffle: `shuffled_elo` shows
how much of a rating is the order, `rate_prompts` how much of it is the sample of prompts.

Shapes: N games or prompts, M systems (sorted by name), S shuffles or resamples.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pit_jax.errors import UserError

Game = tuple[str, str, float]
"""(left, right, score of left): 1 when left won, 0.5 for a draw, 0 when right won."""
Outcomes = Mapping[tuple[str, str], np.ndarray]
"""Score of left [N] on every prompt, by (left, right); row i of every pair is prompt i."""


@dataclass(frozen=True)
class Spread:
    """A rating and the ends between which 95% of its shuffles or resamples lie."""

    rating: float
    low: float
    high: float


def elo(games: Sequence[Game], *, k: float, initial: float) -> dict[str, float]:
    """Ratings after the games, played in the order given.

        R_left += k (score - E),   R_right -= k (score - E),   E = 1 / (1 + 10^((R_right - R_left) / 400))

    By hand, k = 32 from 1500: a beats its equal b and is at 1516. Then b, 32 behind, beats a, who was expected to take
    1 / (1 + 10^(-32 / 400)) = 0.5459 and loses 17.47: 1498.53 and 1501.47.

    Args:
      games: at least one.
      k: the most that one game can move a rating, > 0; a win between equals moves k / 2.
      initial: the rating that everyone starts from, and the mean at the end.
    Raises:
      UserError: no game, a score outside {0, 0.5, 1}, a system against itself, k <= 0.
    """
    names, left_N, right_N, scores_N = _table(games)
    order_N1 = np.arange(len(games))[:, None]
    ratings_1M = _play(left_N, right_N, scores_N, order_N1, systems=len(names), k=k, initial=initial)
    return dict(zip(names, ratings_1M[0].tolist(), strict=True))


def shuffled_elo(games: Sequence[Game], *, k: float, initial: float, shuffles: int, seed: int) -> dict[str, Spread]:
    """Mean of `elo` over random orders of the games, and the ends of the middle 95% of the orders.

    The ends say what the order does to a rating. They are no confidence interval: that is `rate_prompts`.

    Args:
      games, k, initial: as for `elo`.
      shuffles: random orders, >= 1.
      seed: of the orders.
    Raises:
      UserError: as `elo`, or no shuffle.
    """
    names, left_N, right_N, scores_N = _table(games)
    if shuffles < 1:
        raise UserError(f"shuffles={shuffles}: pass at least 1 (200 shows the spread)")
    rng = np.random.default_rng(seed)
    order_NS = np.stack([rng.permutation(len(games)).astype(np.int32) for _ in range(shuffles)], axis=1)
    ratings_SM = _play(left_N, right_N, scores_N, order_NS, systems=len(names), k=k, initial=initial)
    return _spreads(names, ratings_SM.mean(axis=0), ratings_SM, ratings_SM)


def bradley_terry(games: Sequence[Game], *, scale: float, base: float) -> dict[str, float]:
    """Maximum-likelihood ratings, mean 0, whatever the order of the games.

        P(i beats j) = p_i / (p_i + p_j),   rating_i = scale log_base p_i

    A draw counts as half a win each way. 400 and 10 make the ratings comparable with Elo's. By hand: a takes 3 of 4
    points from b, so p_a / p_b = 3, and the two are 400 log10(3) = 190.85 apart: 95.42 and -95.42.

    Args:
      games: at least one.
      scale: > 0.
      base: > 1.
    Raises:
      UserError: no game, a score outside {0, 0.5, 1}, a system against itself, a bad scale or base; or some systems
        never lost half a point to the others, so that the likelihood rises for ever with their ratings.
    """
    names, outcomes_MM3 = _outcomes(games)
    return dict(zip(names, _maximum(names, _wins(outcomes_MM3[None]), _unit(scale, base)).tolist(), strict=True))


def rate_prompts(outcomes: Outcomes, *, scale: float, base: float, resamples: int, seed: int) -> dict[str, Spread]:
    """`bradley_terry` of `games_of(outcomes)`, with 95% intervals: the percentile bootstrap over prompts.

    A prompt is drawn with the games of all pairs on it, because those share its answers: as independent games, the
    intervals of M equal systems whose answers get one grade each would be too narrow by sqrt((M + 1) / 3), which is 2
    for 11 systems. A resample only matters through how often it holds each prompt. One without a maximum counts as
    minus infinity at every low end and as infinity at every high end, so that it can only widen the intervals; from
    one in forty on they are infinite: there are too few prompts to bound the ratings.

    By hand: on 33 of 40 prompts a beats b and c, and b beats c; on the other 7 all three lose instead. In powers of
    three (scale 1, base 3) the ratings are 1, 0 and -1: a has 66 points of 40 (3/4 + 9/10). A resample holds K reversed
    prompts, K ~ binomial(40, 7/40), and its ratings depend on K alone. P(K <= 2) = 2.0%, P(K <= 3) = 6.3%,
    P(K <= 11) = 96.3%, P(K <= 12) = 98.4%: a's interval is from 0.52, its rating at K = 12, to 1.74, that at K = 3.

    Args:
      outcomes: of at least one pair; each 1 (left won), 0.5 (draw) or 0, over the same prompts in the same order.
      scale, base: as for `bradley_terry`.
      resamples: >= 1.
      seed: of the resampling.
    Raises:
      UserError: as `bradley_terry`, different numbers of prompts, or no resample.
    """
    names, outcomes_PN, left_P, right_P = _stacked(outcomes)
    unit, systems, prompts = _unit(scale, base), len(names), outcomes_PN.shape[1]
    all_1N = np.ones((1, prompts))
    rating_M = _maximum(names, _prompt_wins(all_1N, outcomes_PN, left_P, right_P, systems), unit)
    _check_resamples(resamples)
    counts_SN = np.random.default_rng(seed).multinomial(prompts, all_1N[0] / prompts, size=resamples)
    wins_SMM = _prompt_wins(counts_SN.astype(np.float64), outcomes_PN, left_P, right_P, systems)
    return _percentiles(names, rating_M, wins_SMM, unit)


def games_of(outcomes: Outcomes) -> list[Game]:
    """One game a prompt and pair, prompt by prompt, for `shuffled_elo`. UserError as `rate_prompts`."""
    _stacked(outcomes)
    by_pair = [[(*pair, score) for score in np.asarray(scores_N).tolist()] for pair, scores_N in outcomes.items()]
    return [game for games in zip(*by_pair, strict=True) for game in games]


def _table(games: Sequence[Game]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Sorted names, and per game the places of left and right among them and the score of left."""
    if not games:
        raise UserError("no games to rate: pass at least one (left, right, score of left)")
    for i, (left, right, score) in enumerate(games):
        if left == right:
            raise UserError(f"game {i}: {left!r} plays itself; pass two systems")
        if score not in (0, 0.5, 1):
            raise UserError(f"game {i} ({left!r}, {right!r}): score {score}; pass 1 (left won), 0.5 (draw) or 0")
    names = sorted({name for left, right, _ in games for name in (left, right)})
    indices = {name: i for i, name in enumerate(names)}
    left_N = np.array([indices[left] for left, _, _ in games])
    right_N = np.array([indices[right] for _, right, _ in games])
    return names, left_N, right_N, np.array([score for _, _, score in games], np.float64)


def _stacked(outcomes: Outcomes) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Sorted names, the outcomes [pairs, N], and per pair the places of left and right among the names."""
    if not outcomes:
        raise UserError("no pairs to rate: pass the outcomes of at least one (left, right)")
    shapes = {pair: np.shape(scores_N) for pair, scores_N in outcomes.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 1 or not shape[0] for shape in shapes.values()):
        raise UserError(f"asked for one outcome a prompt and pair, over the same prompts; found shapes {shapes}")
    for (left, right), scores_N in outcomes.items():
        if left == right:
            raise UserError(f"{left!r} plays itself; pass pairs of two systems")
        bad = np.flatnonzero(~np.isin(scores_N, (0, 0.5, 1)))
        if bad.size:
            raise UserError(
                f"({left!r}, {right!r}) has {scores_N[bad[0]]} on prompt {bad[0]}; pass 1 (left won), 0.5 (draw) or 0"
            )
    names = sorted({name for pair in outcomes for name in pair})
    indices = {name: i for i, name in enumerate(names)}
    left_P, right_P = (np.array([indices[pair[side]] for pair in outcomes]) for side in (0, 1))
    return names, np.array(list(outcomes.values()), np.float64), left_P, right_P


def _prompt_wins(
    counts_SN: np.ndarray, outcomes_PN: np.ndarray, left_P: np.ndarray, right_P: np.ndarray, systems: int
) -> np.ndarray:
    """[S, M, M] points that the row took from the column over prompts that count `counts_SN` times."""
    wins_MMS = np.zeros((systems, systems, len(counts_SN)))
    np.add.at(wins_MMS, (left_P, right_P), outcomes_PN @ counts_SN.T)
    np.add.at(wins_MMS, (right_P, left_P), (1.0 - outcomes_PN) @ counts_SN.T)
    return np.moveaxis(wins_MMS, 2, 0)


def _play(
    left_N: np.ndarray,
    right_N: np.ndarray,
    scores_N: np.ndarray,
    order_NS: np.ndarray,
    *,
    systems: int,
    k: float,
    initial: float,
) -> np.ndarray:
    """[S, M] Elo ratings after the games in each of the orders, all orders side by side."""
    if not k > 0:
        raise UserError(f"k={k}: a game must move the ratings; pass more than 0 (32 is usual)")
    every_S = np.arange(order_NS.shape[1])
    ratings_SM = np.full((every_S.size, systems), initial, np.float64)
    for game_S in order_NS:
        left_S, right_S = left_N[game_S], right_N[game_S]
        behind_S = ratings_SM[every_S, right_S] - ratings_SM[every_S, left_S]
        change_S = k * (scores_N[game_S] - 1.0 / (1.0 + 10.0 ** (behind_S / 400.0)))
        ratings_SM[every_S, left_S] += change_S
        ratings_SM[every_S, right_S] -= change_S
    return ratings_SM


def _outcomes(games: Sequence[Game]) -> tuple[list[str], np.ndarray]:
    """Sorted names and [M, M, 3]: for row < column, how often the row lost, drew and won; 0 elsewhere."""
    names, left_N, right_N, scores_N = _table(games)
    turned_N = left_N > right_N
    row_N, column_N = np.minimum(left_N, right_N), np.maximum(left_N, right_N)
    points_N = np.where(turned_N, 1.0 - scores_N, scores_N)
    outcomes_MM3 = np.zeros((len(names), len(names), 3))
    np.add.at(outcomes_MM3, (row_N, column_N, (2 * points_N).astype(int)), 1.0)
    return names, outcomes_MM3


def _wins(outcomes_SMM3: np.ndarray) -> np.ndarray:
    """[S, M, M] points that the row took from the column, in both triangles."""
    half_SMM = outcomes_SMM3[..., 1] / 2.0
    return outcomes_SMM3[..., 2] + half_SMM + np.swapaxes(outcomes_SMM3[..., 0] + half_SMM, 1, 2)


def _unit(scale: float, base: float) -> float:
    """What one natural logarithm of strength is worth."""
    if not (0 < scale < math.inf and 1 < base < math.inf):
        raise UserError(f"scale={scale}, base={base}: pass scale > 0 and base > 1 (400 and 10 for Elo's units)")
    return scale / math.log(base)


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise UserError(f"resamples={resamples}: pass at least 1 (2000 gives steady intervals)")


def _maximum(names: list[str], wins_1MM: np.ndarray, unit: float) -> np.ndarray:
    """[M] ratings with the largest likelihood; UserError naming the systems when there is none."""
    chains_MM = _chains(wins_1MM)[0]
    if not chains_MM.all():
        # The systems with the fewest others above them: no chain leads from the rest into them.
        top_M = chains_MM[:, np.argmin(chains_MM.sum(axis=0))]
        top = [name for name, is_top in zip(names, top_M, strict=True) if is_top]
        rest = [name for name in names if name not in top]
        how = "won every game against" if wins_1MM[0][np.ix_(top_M, ~top_M)].any() else "never met"
        raise UserError(
            f"no finite ratings: {top} {how} {rest}; there must be a chain of wins or draws from every system to every "
            "other: add games or leave systems out"
        )
    return unit * _log_strengths(wins_1MM)[0]


def _chains(wins_SMM: np.ndarray) -> np.ndarray:
    """[S, M, M] True where a chain of games leads from the row to the column, each link at least a draw.

    The likelihood has its maximum at finite ratings if and only if all are True (Ford 1957).
    """
    systems = wins_SMM.shape[1]
    chains_SMM = (wins_SMM > 0) | np.eye(systems, dtype=bool)
    for _ in range(systems.bit_length()):
        chains_SMM = chains_SMM @ chains_SMM
    return chains_SMM


def _log_strengths(wins_SMM: np.ndarray) -> np.ndarray:
    """[S, M] natural logarithms of the strengths with the largest likelihood, mean 0; all chains must exist.

    Newton's method. With d the largest change of a difference in a full step, the share log(1 + d) / d of it is taken:
    the third derivative of log(1 + exp(-x)) is at most the second, so that this share minimises a bound on the loss
    along the step (arXiv 1703.04599). The likelihood rises every time, and the last steps are full ones.
    """
    games_SMM = wins_SMM + np.swapaxes(wins_SMM, 1, 2)
    systems = wins_SMM.shape[1]
    logs_SM = np.zeros(wins_SMM.shape[:2])
    for _ in range(1000):  # a dozen are enough in practice
        chance_SMM = 1.0 / (1.0 + np.exp(logs_SM[:, None, :] - logs_SM[:, :, None]))
        gradient_SM = np.sum(wins_SMM - games_SMM * chance_SMM, axis=2)
        weights_SMM = games_SMM * chance_SMM * (1.0 - chance_SMM)
        # A shift of all ratings is free; 1 / M in every entry pins it to 0.
        hessian_SMM = np.eye(systems) * weights_SMM.sum(axis=2)[:, :, None] - weights_SMM + 1.0 / systems
        step_SM = np.linalg.solve(hessian_SMM, gradient_SM[:, :, None])[:, :, 0]
        change_S = np.maximum(np.ptp(step_SM, axis=1), np.finfo(np.float64).tiny)
        logs_SM += (np.log1p(change_S) / change_S)[:, None] * step_SM
        if change_S.max(initial=0.0) < 1e-7:  # the next change would be about its square
            return logs_SM - logs_SM.mean(axis=1, keepdims=True)
    raise AssertionError("Newton's method on a likelihood with a maximum did not settle")


def _percentiles(names: list[str], rating_M: np.ndarray, wins_SMM: np.ndarray, unit: float) -> dict[str, Spread]:
    """The middle 95% of the resamples; one without a maximum is open at both ends."""
    bounded_S = _chains(wins_SMM).all(axis=(1, 2))
    low_SM, high_SM = np.full(wins_SMM.shape[:2], -np.inf), np.full(wins_SMM.shape[:2], np.inf)
    low_SM[bounded_S] = high_SM[bounded_S] = unit * _log_strengths(wins_SMM[bounded_S])
    return _spreads(names, rating_M, low_SM, high_SM)


def _spreads(names: list[str], rating_M: np.ndarray, low_SM: np.ndarray, high_SM: np.ndarray) -> dict[str, Spread]:
    """One in forty of the lows below, one in forty of the highs above."""
    outside = (len(low_SM) - 1) // 40  # 2.5% at either end
    low_M, high_M = np.sort(low_SM, axis=0)[outside], np.sort(high_SM, axis=0)[-1 - outside]
    return {
        name: Spread(*values)
        for name, *values in zip(names, rating_M.tolist(), low_M.tolist(), high_M.tolist(), strict=True)
    }
