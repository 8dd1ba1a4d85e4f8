"""The head of a scalar model, fitted to its trunk as it is before the first update.

A head that is drawn at random moves the features of a pretrained trunk before it has learned to read them (LP-FT,
arXiv 2202.10054), and with few pairs the reading is most of what there is to learn. Scores are linear in the head, so
one pass over the rows finds them for every head, and their loss is convex.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from pit_jax.masked import Mean
from pit_jax.parallel.hosts import from_main, whole
from pit_jax.parallel.sharding import put

Objective = Callable[[Any], tuple[jax.Array, dict[str, Mean]]]
"""objective(scores) -> the mean loss of their rows, convex in them, and metrics."""

# Weights of sum(w^2) / 2 beside the summed loss, strongest first: each fit begins where the one before ended.
RIDGES = (1e5, 3e4, 1e4, 3e3, 1e3, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
PARTS = 5  # of the rows; each is held back once, since the best ridge of a fifth of 1,300 pairs is mostly chance
ITERATIONS = 200


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear:
    """Scores of N rows by weights w: offsets + slopes . w, in trees of one shape."""

    offsets: Any  # of [N]
    slopes: Any  # of [N, D]

    def picked(self, rows: np.ndarray) -> "Linear":
        picked: Linear = jax.tree.map(lambda x: x[rows], self)
        return picked

    def scores(self, weights_D: jax.Array | np.ndarray) -> Any:
        return jax.tree.map(lambda x_N, slopes_ND: x_N + slopes_ND @ weights_D, self.offsets, self.slopes)


def linear(scores: Callable[[Any], Any], head: Any) -> Linear:
    """What scores(head), a tree of [B], are for every head like this one, as a vector (`ravel_pytree`): they must be
    linear in it, or shifted so."""
    given_D, shaped = ravel_pytree(head)
    none_D = jnp.zeros_like(given_D)

    def by_weights(weights_D: jax.Array) -> Any:
        return scores(shaped(weights_D))

    return Linear(by_weights(none_D), jax.jacrev(by_weights)(none_D))


def stacked(pieces: Sequence[Linear]) -> Linear:
    """The rows of all behind each other, on the host."""
    rows: Linear = jax.tree.map(lambda *xs: np.concatenate(xs), *pieces)
    return rows


def least(rows: Linear, objective: Objective) -> tuple[np.ndarray, float]:
    """(weights [D] float32 of the least loss and ridge over host arrays, that ridge).

    Slopes are divided by their spread over the rows first, so that one ridge fits them all. The ridge is the one of
    RIDGES with the least loss on rows that are held back, each of PARTS once.
    """

    def loss(weights_D: jax.Array, rows: Linear, ridge: jax.Array) -> jax.Array:
        return objective(rows.scores(weights_D))[0] + ridge * jnp.sum(jnp.square(weights_D)) / 2

    value_and_slope = jax.jit(jax.value_and_grad(loss))
    held_back_loss = jax.jit(lambda weights_D, rows: objective(rows.scores(weights_D))[0])

    def fitted(rows: Linear, ridge: float, start_D: np.ndarray) -> np.ndarray:
        count = len(jax.tree.leaves(rows.slopes)[0])

        def asked(weights_D: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope_D = value_and_slope(jnp.asarray(weights_D, jnp.float32), rows, jnp.float32(ridge / count))
            return float(value), whole(slope_D).astype(np.float64)

        found_D: np.ndarray = minimize(asked, start_D, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x
        return found_D

    scale_D = np.sqrt(np.mean([np.var(x_ND, axis=0) for x_ND in jax.tree.leaves(rows.slopes)], axis=0))
    scale_D = np.where(scale_D > 0, scale_D, 1.0).astype(np.float32)
    rows = jax.tree.map(jnp.asarray, Linear(rows.offsets, jax.tree.map(lambda x_ND: x_ND / scale_D, rows.slopes)))
    part_N = np.arange(len(jax.tree.leaves(rows.slopes)[0])) % PARTS
    losses = dict.fromkeys(RIDGES, 0.0)
    for part in range(min(PARTS, len(part_N))):
        kept, others, weights_D = rows.picked(part_N != part), rows.picked(part_N == part), np.zeros(len(scale_D))
        for ridge in RIDGES:
            weights_D = fitted(kept, ridge, weights_D)
            losses[ridge] += float(held_back_loss(jnp.asarray(weights_D, jnp.float32), others))
    ridge = min(losses, key=lambda ridge: losses[ridge])
    return fitted(rows, ridge, np.zeros(len(scale_D))).astype(np.float32) / scale_D, ridge


@dataclass(frozen=True)
class HeadFit:
    """`scores`(params, batch) -> a tree of [B], linear in params["head"], and the objective over such a tree."""

    scores: Callable[[Any, Any], Any]
    objective: Objective


def fitted(fit: HeadFit, params: Any, batches: Iterable[Any]) -> tuple[Any, dict[str, float]]:
    """(params["head"] with the least loss on the batches over the trunk of `params`, the ridge and metrics on them).

    Every host reads and fits, and takes the weights that the first one has found.
    """

    @jax.jit
    def read(params: Any, batch: Any) -> Linear:
        return linear(lambda own: fit.scores({**params, "head": own}, batch), params["head"])

    rows = stacked([whole(read(params, batch)) for batch in batches])
    weights_D, ridge = least(rows, fit.objective)
    weights_D = from_main(lambda: weights_D).astype(np.float32)
    _, metrics = fit.objective(rows.scores(weights_D))
    _, shaped = ravel_pytree(whole(params["head"]))
    placed = jax.tree.map(lambda x, drawn: put(x, drawn.sharding), shaped(jnp.asarray(weights_D)), params["head"])
    return placed, {"ridge": ridge} | {name: mean.value for name, mean in metrics.items()}
