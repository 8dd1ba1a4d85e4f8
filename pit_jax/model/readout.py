"""Log-probs of given tokens from hidden states, a few slots at a time: no array ever holds the logits of all slots.

The plain form is `token_logprobs` of `LanguageModel.logits`. This one has its own backward pass, which makes the logits
of a piece again instead of keeping them. On a mesh every device reads its own rows against its own share of the
vocabulary, and the gradient of the unembedding is summed over devices once, behind the last piece.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pit_jax.model.mixing import cut, joined, softcap
from pit_jax.model.products import product
from pit_jax.parallel.sharding import BATCH_AXES, P


@dataclass(frozen=True)
class Reading:
    """How the logits of a program's rows are made: all that is fixed when it is traced."""

    cap: float  # logit softcap; 0 = none
    divisor: float  # of the capped logits: the temperature, and the model's own
    rows: tuple[str, ...]  # mesh axes that rows are split over; () = one device, or left to the partitioner
    vocabulary: str | None  # mesh axis that the vocabulary is split over
    width: str | None  # mesh axis that the unembedding's gradient is scattered over
    pieces: int  # into which the slots of a row are cut; 1 = the plain form will do

    @staticmethod
    def of(hidden_BTD: jax.Array, matrix_DV: jax.Array, *, cap: float, divisor: float, logits_bytes: int) -> "Reading":
        """As many pieces as keep the float32 logits of one under `logits_bytes` a device, at most one for each slot."""
        (batch, slots, _), (width, vocabulary) = hidden_BTD.shape, matrix_DV.shape
        mesh = jax.sharding.get_abstract_mesh()
        sizes = {} if mesh.empty or mesh.size == 1 else dict(mesh.shape)
        rows = tuple(axis for axis in BATCH_AXES if axis in sizes)
        shards = 1
        for axis in rows:
            shards *= sizes[axis]
        if batch % shards:
            rows, shards, sizes = (), 1, {}
        columns = sizes.get("tensor", 1)
        split = "tensor" if columns > 1 and vocabulary % columns == 0 else None
        slot_bytes = (batch // shards) * (vocabulary // (columns if split else 1)) * 4
        pieces = -(-slots // max(1, logits_bytes // slot_bytes))
        scattered = "fsdp" if sizes.get("fsdp", 1) > 1 and width % sizes["fsdp"] == 0 else None
        return Reading(cap, divisor, rows, split, scattered, pieces)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def read_tokens(
    hidden_BTD: jax.Array, matrix_DV: jax.Array, tokens_BT: jax.Array, reading: Reading
) -> tuple[jax.Array, jax.Array]:
    """(logprobs_BT float32 of the given tokens, likeliest_BT, whether no other has a larger logit).

    A token outside of the vocabulary has the log-prob of a logit of 0. The log-probs are differentiable in the hidden
    states and in the unembedding, in whose dtype its gradient is, summed in float32.
    """
    return _forward(hidden_BTD, matrix_DV, tokens_BT, reading)[:2]


def _read_forward(
    hidden_BTD: jax.Array, matrix_DV: jax.Array, tokens_BT: jax.Array, reading: Reading
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    logprobs_BT, likeliest_BT, normalizer_BT = _forward(hidden_BTD, matrix_DV, tokens_BT, reading)
    return (logprobs_BT, likeliest_BT), (hidden_BTD, matrix_DV, tokens_BT, normalizer_BT)


def _read_backward(
    reading: Reading, kept: tuple[jax.Array, ...], cotangents: tuple[jax.Array, Any]
) -> tuple[jax.Array, jax.Array, None]:
    hidden_BTD, matrix_DV, tokens_BT, normalizer_BT = kept
    whole, matrix, row = _specs(reading)
    scattered = P(reading.width, reading.vocabulary)
    backward = _on_mesh(partial(_backward_here, reading), reading, (whole, matrix, row, row, row), (whole, scattered))
    arrays = tokens_BT, normalizer_BT, cotangents[0]
    hidden_gradient_BTD, gradient_DV = backward(hidden_BTD, matrix_DV.astype(hidden_BTD.dtype), *arrays)
    return hidden_gradient_BTD, gradient_DV.astype(matrix_DV.dtype), None


read_tokens.defvjp(_read_forward, _read_backward)


def _forward(
    hidden_BTD: jax.Array, matrix_DV: jax.Array, tokens_BT: jax.Array, reading: Reading
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """logprobs_BT, likeliest_BT and normalizer_BT, the logsumexp of all logits."""
    whole, matrix, row = _specs(reading)
    forward = _on_mesh(partial(_forward_here, reading), reading, (whole, matrix, row), (row, row, row))
    found: tuple[jax.Array, jax.Array, jax.Array] = forward(hidden_BTD, matrix_DV.astype(hidden_BTD.dtype), tokens_BT)
    return found


def _specs(reading: Reading) -> tuple[P, P, P]:
    """Of hidden states, of the unembedding, gathered over all but the vocabulary, and of rows of slots."""
    rows = reading.rows or None
    return P(rows, None, None), P(None, reading.vocabulary), P(rows, None)


def _on_mesh(function: Callable[..., Any], reading: Reading, inside: Any, outside: Any) -> Callable[..., Any]:
    if not reading.rows:
        return function
    return jax.shard_map(function, in_specs=inside, out_specs=outside, check_vma=False)


def _forward_here(
    reading: Reading, hidden_BTD: jax.Array, matrix_DV: jax.Array, tokens_BT: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The forward pass of one device's rows and columns."""

    def piece(arrays: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        hidden_BTD, tokens_BT = arrays
        logits_BTV, _ = _logits(reading, hidden_BTD, matrix_DV)
        top_BT = _over(jax.lax.pmax, jnp.max(logits_BTV, axis=-1), reading.vocabulary)
        total_BT = jnp.sum(jnp.exp(logits_BTV - top_BT[..., None]), axis=-1)
        normalizer_BT = top_BT + jnp.log(_over(jax.lax.psum, total_BT, reading.vocabulary))
        column_BT, ours_BT = _columns(reading, tokens_BT, matrix_DV.shape[1])
        picked_BT = jnp.take_along_axis(logits_BTV, column_BT[..., None], axis=-1)[..., 0]
        picked_BT = _over(jax.lax.psum, jnp.where(ours_BT, picked_BT, 0.0), reading.vocabulary)
        return picked_BT - normalizer_BT, picked_BT == top_BT, normalizer_BT

    slots = tokens_BT.shape[1]
    pieces = jax.lax.map(piece, (_cut(reading, hidden_BTD), _cut(reading, tokens_BT)))
    logprobs_BT, likeliest_BT, normalizer_BT = (joined(x, slots) for x in pieces)
    return logprobs_BT, likeliest_BT, normalizer_BT


def _backward_here(
    reading: Reading,
    hidden_BTD: jax.Array,
    matrix_DV: jax.Array,
    tokens_BT: jax.Array,
    normalizer_BT: jax.Array,
    cotangent_BT: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The gradient of one device's rows and columns: in hidden states, and the device's part of that in columns."""

    def piece(sum_DV: jax.Array, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        hidden_BTD, tokens_BT, normalizer_BT, cotangent_BT = arrays
        logits_BTV, slope_BTV = _logits(reading, hidden_BTD, matrix_DV)
        column_BT, ours_BT = _columns(reading, tokens_BT, matrix_DV.shape[1])
        columns_11V = jnp.arange(matrix_DV.shape[1], dtype=jnp.int32)[None, None]
        target_BTV = (columns_11V == column_BT[..., None]) & ours_BT[..., None]
        error_BTV = target_BTV.astype(jnp.float32) - jnp.exp(logits_BTV - normalizer_BT[..., None])
        gradient_BTV = (cotangent_BT[..., None] * error_BTV * slope_BTV).astype(hidden_BTD.dtype)
        hidden_gradient_BTD = product(gradient_BTV, matrix_DV.T, dtype=jnp.float32)
        hidden_gradient_BTD = _over(jax.lax.psum, hidden_gradient_BTD, reading.vocabulary).astype(hidden_BTD.dtype)
        rows_XD, rows_XV = (x.reshape(-1, x.shape[-1]) for x in (hidden_BTD, gradient_BTV))
        here_DV = jnp.einsum("XD,XV->DV", rows_XD, rows_XV, preferred_element_type=jnp.float32)
        return sum_DV + here_DV, hidden_gradient_BTD

    pieces = tuple(_cut(reading, x) for x in (hidden_BTD, tokens_BT, normalizer_BT, cotangent_BT))
    sum_DV, hidden_gradient = jax.lax.scan(piece, jnp.zeros(matrix_DV.shape, jnp.float32), pieces)
    others = tuple(axis for axis in reading.rows if axis != reading.width)
    sum_DV = jax.lax.psum(sum_DV, others) if others else sum_DV
    if reading.width is not None:
        sum_DV = jax.lax.psum_scatter(sum_DV, reading.width, scatter_dimension=0, tiled=True)
    return joined(hidden_gradient, tokens_BT.shape[1]), sum_DV


def _logits(reading: Reading, hidden_BTD: jax.Array, matrix_DV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """logits_BTV divided by the temperature, and their slope in what the unembedding gives."""
    plain_BTV = product(hidden_BTD, matrix_DV, dtype=jnp.float32)
    capped_BTV = softcap(plain_BTV, reading.cap)
    flat_BTV = 1.0 - jnp.square(capped_BTV / reading.cap) if reading.cap else jnp.ones_like(plain_BTV)
    return capped_BTV / reading.divisor, flat_BTV / reading.divisor


def _columns(reading: Reading, tokens_BT: jax.Array, columns: int) -> tuple[jax.Array, jax.Array]:
    """Of each token its column on this device, and whether it has one."""
    column_BT = tokens_BT.astype(jnp.int32) - _first(reading, columns)
    return jnp.clip(column_BT, 0, columns - 1), (column_BT >= 0) & (column_BT < columns)


def _first(reading: Reading, columns: int) -> jax.Array:
    """The token of this device's first column."""
    index = jnp.int32(0) if reading.vocabulary is None else jax.lax.axis_index(reading.vocabulary)
    return index.astype(jnp.int32) * columns


def _over(collective: Callable[..., Any], x: jax.Array, axis: str | None) -> jax.Array:
    reduced: jax.Array = x if axis is None else collective(x, axis)
    return reduced


def _cut(reading: Reading, x_BT: jax.Array) -> jax.Array:
    """[pieces, B, T / pieces, ..]."""
    return cut(x_BT, reading.pieces, -(-x_BT.shape[1] // reading.pieces))
