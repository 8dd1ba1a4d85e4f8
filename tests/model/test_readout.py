"""Log-probs in pieces against the plain form: values, gradients, meshes, and that no array holds all logits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from pit_jax.model.mixing import softcap
from pit_jax.model.readout import Reading, read_tokens
from pit_jax.model.scoring import token_logprobs

B, T, D, V = 8, 7, 16, 24


def arrays(vocabulary: int = V, width: int = D) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Hidden states, unembedding, tokens and weights of the log-probs, some of them 0."""
    rng = np.random.default_rng(0)
    hidden_BTD, matrix_DV, weights_BT = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((B, T, width), (width, vocabulary), (B, T))
    )
    tokens_BT = jnp.asarray(rng.integers(0, vocabulary, (B, T)), jnp.int32)
    return hidden_BTD, matrix_DV, tokens_BT, jnp.where(weights_BT > 0.5, 0.0, weights_BT)


def plain(hidden_BTD: Any, matrix_DV: Any, tokens_BT: Any, *, cap: float, divisor: float) -> tuple[Any, Any]:
    logits_BTV = softcap(jnp.einsum("BTD,DV->BTV", hidden_BTD, matrix_DV), cap)
    logprobs_BT = token_logprobs(logits_BTV, tokens_BT, temperature=divisor)
    return logprobs_BT, jnp.argmax(logits_BTV, axis=-1) == tokens_BT


def pieces(hidden_BTD: Any, matrix_DV: Any, tokens_BT: Any, *, slots: int, **knobs: float) -> tuple[Any, Any]:
    """With so many slots of every row in a piece, on whatever mesh there is."""
    limit = {"logits_bytes": 1}
    one = Reading.of(hidden_BTD, matrix_DV, cap=0.0, divisor=1.0, **limit)
    per_slot = B * matrix_DV.shape[1] * 4
    for axis, size in jax.sharding.get_abstract_mesh().shape.items():
        split = axis in one.rows or axis == one.vocabulary
        per_slot //= size if split else 1
    reading = Reading.of(hidden_BTD, matrix_DV, logits_bytes=slots * per_slot, **knobs)
    assert reading.pieces == -(-T // slots)
    return read_tokens(hidden_BTD, matrix_DV, tokens_BT, reading)


def gradient(read: Any) -> Any:
    """((weighted sum, (log-probs, likeliest)), its gradient in hidden states and unembedding), compiled."""

    def loss(hidden_BTD: Any, matrix_DV: Any, tokens_BT: Any, weights_BT: Any) -> tuple[Any, Any]:
        logprobs_BT, likeliest_BT = read(hidden_BTD, matrix_DV, tokens_BT)
        return jnp.sum(jnp.where(weights_BT != 0, logprobs_BT, 0.0) * weights_BT), (logprobs_BT, likeliest_BT)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))


def assert_equal(found: Any, expected: Any, atol: float = 1e-6) -> None:
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=atol)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("knobs", [{"cap": 0.0, "divisor": 1.0}, {"cap": 5.0, "divisor": 0.7}], ids=["plain", "capped"])
def test_pieces_equal_the_plain_form(slots: int, knobs: dict[str, float]) -> None:
    """Values, likeliest tokens and both gradients, also where 7 slots make three pieces of 3."""
    given = arrays()
    assert_equal(gradient(partial(pieces, slots=slots, **knobs))(*given), gradient(partial(plain, **knobs))(*given))


@pytest.mark.parametrize(
    ("shape", "vocabulary", "width"),
    [((2, 2, 2), V, D), ((1, 4, 2), 25, 18), ((1, 1, 8), V, D), ((2, 2, 2), V, 15)],
    ids=["all axes", "nothing divides but rows", "the vocabulary alone", "the width does not divide"],
)
def test_every_mesh_gives_the_same(shape: tuple[int, int, int], vocabulary: int, width: int, make_mesh: Any) -> None:
    given, knobs = arrays(vocabulary, width), {"cap": 5.0, "divisor": 0.7}
    expected = gradient(partial(plain, **knobs))(*given)
    with jax.set_mesh(make_mesh(*shape)):
        found = gradient(partial(pieces, slots=2, **knobs))(*given)
    assert_equal(found, expected, atol=3e-6)  # numbers up to 3, added in another order


@pytest.mark.parametrize("knobs", [{"cap": 0.0, "divisor": 1.0}, {"cap": 5.0, "divisor": 0.7}], ids=["plain", "capped"])
def test_the_likeliest_token_of_every_slot_is_told_from_others(knobs: dict[str, float]) -> None:
    hidden_BTD, matrix_DV, *_ = arrays()
    best_BT = jnp.argmax(jnp.einsum("BTD,DV->BTV", hidden_BTD, matrix_DV), axis=-1).astype(jnp.int32)
    read = jax.jit(partial(pieces, slots=3, **knobs))
    assert read(hidden_BTD, matrix_DV, best_BT)[1].all()
    assert not read(hidden_BTD, matrix_DV, (best_BT + 1) % V)[1].any()


def test_rows_that_a_mesh_does_not_divide(make_mesh: Any) -> None:
    given = jax.tree.map(lambda x: x[:3] if x.shape[0] == B else x, arrays())
    knobs = {"cap": 0.0, "divisor": 1.0}
    with jax.set_mesh(make_mesh(2, 2, 2)):
        reading = Reading.of(given[0], given[1], logits_bytes=1, **knobs)
        found = jax.jit(read_tokens, static_argnums=3)(*given[:3], reading)
    assert reading.rows == () and reading.pieces == T
    assert_equal(found, plain(*given[:3], **knobs))


def test_bfloat16_is_summed_in_float32() -> None:
    """Log-probs and the gradient of a float32 unembedding are float32; those of hidden states have their dtype."""
    hidden_BTD, *rest = arrays()
    hidden_BTD = hidden_BTD.astype(jnp.bfloat16)
    (_, (logprobs_BT, _)), (hidden_gradient, matrix_gradient) = gradient(
        partial(pieces, slots=2, cap=0.0, divisor=1.0)
    )(hidden_BTD, *rest)
    assert (logprobs_BT.dtype, hidden_gradient.dtype, matrix_gradient.dtype) == (
        jnp.float32,
        jnp.bfloat16,
        jnp.float32,
    )
    (_, (expected_BT, _)), (_, expected_DV) = gradient(partial(plain, cap=0.0, divisor=1.0))(
        hidden_BTD.astype(jnp.float32), *rest
    )
    np.testing.assert_allclose(logprobs_BT, expected_BT, atol=0.1)
    np.testing.assert_allclose(matrix_gradient, expected_DV, atol=0.1)


def test_no_array_is_as_large_as_the_logits() -> None:
    def sizes(read: Any) -> list[int]:
        jaxpr = jax.make_jaxpr(gradient(read))(*arrays())
        return [v.aval.size for e in equations(jaxpr.jaxpr) for v in e.outvars if hasattr(v.aval, "size")]

    knobs = {"cap": 5.0, "divisor": 0.7}
    assert max(sizes(partial(plain, **knobs))) == B * T * V
    assert max(sizes(partial(pieces, slots=2, **knobs))) < B * T * V


def equations(jaxpr: Any) -> Any:
    """All of a program, those inside others included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_as_few_pieces_as_the_limit_allows(make_mesh: Any) -> None:
    """Logits of a slot are 8 x 24 x 4 = 768 bytes; on a mesh of 2 x 2 x 2 devices 96 of a device."""
    hidden_BTD, matrix_DV, *_ = arrays()

    def count(limit: int) -> int:
        return Reading.of(hidden_BTD, matrix_DV, cap=0.0, divisor=1.0, logits_bytes=limit).pieces

    assert [count(limit) for limit in (7 * 768, 7 * 768 - 1, 2 * 768, 768, 1)] == [1, 2, 4, 7, 7]
    with jax.set_mesh(make_mesh(2, 2, 2)):
        assert [count(limit) for limit in (7 * 96, 7 * 96 - 1, 1)] == [1, 2, 7]
