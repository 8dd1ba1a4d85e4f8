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

RIDGES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # weights of sum(w^2) / 2 beside the summed loss
HELD_BACK = 5  # of so many rows one chooses among the ridges
ITERATIONS = 200


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Linear:
    """Scores of N rows by weights w: offsets + slopes . w, in trees of one shape."""

    offsets: Any  # of [N]
    slopes: Any  # of [N, D]

    def picked(self, rows: slice) -> "Linear":
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

    Slopes are divided by their spread over the rows first, so that one ridge fits them all. Of RIDGES the one is taken
    with which weights that are fitted to four fifths of the rows have the least loss on the others.
    """

    def loss(weights_D: jax.Array, rows: Linear, ridge: jax.Array) -> jax.Array:
        return objective(rows.scores(weights_D))[0] + ridge * jnp.sum(jnp.square(weights_D)) / 2

    value_and_slope = jax.jit(jax.value_and_grad(loss))

    def fitted(rows: Linear, ridge: float) -> jax.Array:
        count, width = jax.tree.leaves(rows.slopes)[0].shape

        def asked(weights_D: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope_D = value_and_slope(jnp.asarray(weights_D, jnp.float32), rows, jnp.float32(ridge / count))
            return float(value), whole(slope_D).astype(np.float64)

        found = minimize(asked, np.zeros(width), jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
        return jnp.asarray(found.x, jnp.float32)

    scale_D = np.sqrt(np.mean([np.var(x_ND, axis=0) for x_ND in jax.tree.leaves(rows.slopes)], axis=0))
    scale_D = np.where(scale_D > 0, scale_D, 1.0).astype(np.float32)
    rows = jax.tree.map(jnp.asarray, Linear(rows.offsets, jax.tree.map(lambda x_ND: x_ND / scale_D, rows.slopes)))
    held_back = len(jax.tree.leaves(rows.slopes)[0]) // HELD_BACK
    kept, others = rows.picked(slice(held_back, None)), rows.picked(slice(held_back))
    losses = {ridge: float(objective(others.scores(fitted(kept, ridge)))[0]) for ridge in RIDGES}
    ridge = min(losses, key=lambda ridge: losses[ridge])
    return whole(fitted(rows, ridge)) / scale_D, ridge


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
