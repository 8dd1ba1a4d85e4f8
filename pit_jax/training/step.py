"""One optimizer update: loss, gradient, accumulation, update. Pure; meshes and jit enter in `compile_step` only."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pit_jax.errors import UserError
from pit_jax.masked import Mean
from pit_jax.training.optimizer import decay_mask
from pit_jax.training.sharing import distinct
from pit_jax.training.state import TrainState, joined

Metrics = dict[str, Mean]
Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, Metrics]]
"""loss(params, batch, key) -> (loss, metrics)."""
Step = Callable[..., tuple[TrainState, Metrics]]
"""step(state, batch) -> (state, metrics), and with frozen parameters as a third argument where there are some."""


@dataclasses.dataclass(frozen=True)
class Remembering:
    """A loss that depends on batches before, by what the extras of the state keep of them."""

    loss: Callable[[Any, Any, jax.Array, Any], tuple[jax.Array, Metrics, Any]]
    """loss(params, batch, key, extras) -> (loss, metrics, rows): arrays [B, ..] that say something of each row.
    Micro-batches all see the extras before their update."""
    remember: Callable[[Any, Any], Any]
    """remember(extras, rows) -> the extras behind an update; rows of the whole batch, in its order."""
    extras: dict[str, Any]
    """Before the first update."""
    alone: Loss
    """The loss of rows by themselves, as held-out ones are."""


def make_train_step(
    loss: Loss | Remembering, optimizer: optax.GradientTransformation, *, accumulate: int, params_dtype: str = "float32"
) -> Step:
    """step(state, batch) -> (state after one update, metrics of the batch).

    `loss(params, batch, key) -> (loss, metrics)`, where metrics["loss"].count says how many tokens (or pairs) the loss
    is a mean over, and key = fold_in(state.key, state.step). With `accumulate` > 1 the batch is cut into that many
    micro-batches (row i goes to micro-batch i mod accumulate, so rows stay on their devices); gradients are weighted
    by their counts, which makes the update that of one big batch. Adds the metric `grad_norm` (before clipping).
    The loss sees matrices in `params_dtype`, has its gradient at those, and the state's own take the update: with
    bfloat16 the float32 weights are the optimizer's masters, and copies, gathers and gradients have half their size.
    With a third argument `frozen`, the loss sees joined(frozen, state.params), and has a gradient for the latter alone.

    Raises UserError: accumulate < 1; at trace, a batch that does not divide, or a loss without metrics["loss"].
    """
    remembering = loss if isinstance(loss, Remembering) else _forgetting(loss)
    if accumulate < 1:
        raise UserError(f"accumulate must be at least 1, found {accumulate}")

    def loss_of(
        params: Any, frozen: Any, batch: Any, key: jax.Array, extras: Any
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        whole_params = params if frozen is None else joined(frozen, params)
        value, metrics, rows = remembering.loss(whole_params, batch, key, extras)
        return value, (metrics, rows)

    gradient = jax.value_and_grad(loss_of, has_aux=True)

    def working(params: Any) -> Any:
        if params_dtype == "float32":
            return params
        return jax.tree.map(lambda x, matrix: x.astype(params_dtype) if matrix else x, params, decay_mask(params))

    def whole(params: Any, frozen: Any, batch: Any, key: jax.Array, extras: Any) -> tuple[Any, Metrics, Any]:
        (_, (metrics, rows)), grads = gradient(working(params), frozen, batch, key, extras)
        _require_loss(metrics)
        return jax.tree.map(lambda g, p: g.astype(p.dtype), grads, params), metrics, rows

    def pieces(params: Any, frozen: Any, batch: Any, key: jax.Array, extras: Any) -> tuple[Any, Metrics, Any]:
        def add(total: tuple[Any, Metrics], piece: tuple[Any, jax.Array]) -> tuple[tuple[Any, Metrics], Any]:
            part, index = piece
            grads, metrics, rows = whole(params, frozen, part, jax.random.fold_in(key, index), extras)
            grads = jax.tree.map(lambda g: g * metrics["loss"].count, grads)
            return jax.tree.map(jnp.add, total, (grads, metrics)), rows

        batch = split(batch, accumulate)
        first = jax.tree.map(lambda x: x[0], batch)
        *sums, _ = jax.eval_shape(whole, params, frozen, first, key, extras)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tuple(sums))
        (grads, metrics), rows = jax.lax.scan(add, zero, (batch, jnp.arange(accumulate)))
        count = metrics["loss"].count
        return jax.tree.map(lambda g: g / jnp.where(count > 0, count, 1.0), grads), metrics, together(rows)

    def step(state: TrainState, batch: Any, frozen: Any = None) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        update = whole if accumulate == 1 else pieces
        grads, metrics, rows = update(state.params, frozen, batch, key, state.extras)
        metrics = {**metrics, "grad_norm": Mean(optax.tree.norm(grads), jnp.ones((), jnp.float32))}
        with jax.numpy_dtype_promotion("standard"):  # optax raises float betas to integer counts
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        extras = remembering.remember(state.extras, rows)
        after = dataclasses.replace(state, params=params, opt_state=opt_state, step=state.step + 1, extras=extras)
        return after, metrics

    return step


def _forgetting(loss: Loss) -> Remembering:
    def forgetting(params: Any, batch: Any, key: jax.Array, extras: Any) -> tuple[jax.Array, Metrics, Any]:
        return *loss(params, batch, key), ()

    return Remembering(forgetting, lambda extras, rows: extras, {}, loss)


def alone(loss: Loss | Remembering) -> Loss:
    """The loss of rows by themselves."""
    return loss.alone if isinstance(loss, Remembering) else loss


def split(batch: Any, parts: int) -> Any:
    """Every leaf [B, ...] as [parts, B / parts, ...]; row i goes to part i mod parts. UserError unless it divides."""

    def cut(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        if x.ndim == 0 or x.shape[0] % parts:
            raise UserError(
                f"batch{jax.tree_util.keystr(path)} of shape {x.shape} does not divide into accumulate={parts} "
                f"micro-batches; make the batch size a multiple of {parts}"
            )
        return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

    return jax.tree_util.tree_map_with_path(cut, batch)


def together(parts: Any) -> Any:
    """What `split` cut, every leaf [parts, B / parts, ...] as [B, ...] in its order."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), parts)


def compile_step(step: Step, *, state_sharding: TrainState, batch_sharding: Any, frozen: Any = None) -> Step:
    """The one jax.jit: where state and batch live, and that the old state's buffers are reused for the new one.

    `batch_sharding` is a sharding, or a tree prefix of the batch. The state passed in is gone afterwards (donated):
    read what is needed of it before the call. `frozen` parameters (arrays on the mesh) are handed to every call, an
    array of which several models are made once, and stay. Metrics come back replicated.
    """
    out, where = (state_sharding, state_sharding.step), (state_sharding, batch_sharding)
    if frozen is None:
        return jax.jit(step, in_shardings=where, out_shardings=out, donate_argnums=0)
    arrays, places = distinct(frozen)

    def over_frozen(state: TrainState, batch: Any, arrays: list[Any]) -> tuple[TrainState, Metrics]:
        return step(state, batch, places.fill(arrays))

    shardings = (*where, [x.sharding for x in arrays])
    program = jax.jit(over_frozen, in_shardings=shardings, out_shardings=out, donate_argnums=0)
    return FrozenStep(program, arrays)


@dataclasses.dataclass(frozen=True)
class FrozenStep:
    """A compiled step and the frozen arrays that it is handed with every call."""

    program: Any
    arrays: list[Any]

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        updated: tuple[TrainState, Metrics] = self.program(state, batch, self.arrays)
        return updated

    def trace(self, state: Any, batch: Any) -> Any:
        """The traced program of arguments like these, as jax.jit's."""
        return self.program.trace(state, batch, self.arrays)


def _require_loss(metrics: Metrics) -> None:
    if "loss" not in metrics:
        raise UserError(
            f'a loss must report metrics["loss"] = Mean(sum, count of tokens or pairs), found {sorted(metrics)}'
        )
