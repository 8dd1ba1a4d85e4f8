"""Packing tokens to the right end of their slot, and improver prompts, against plain Python lists."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pit_jax.batch import DecodeSpec, PromptBatch, Responses
from pit_jax.config import TransformerConfig
from pit_jax.inference.engine import Engine, improver_prompt, left_pack
from pit_jax.model.networks import LanguageModel

BATCH, PREFIX, REFERENCE, SUFFIX, EOS = 3, 5, 4, (91, 92), 90
SPEC = DecodeSpec(REFERENCE, eos_id=EOS, pad_id=0, suffix=SUFFIX)
pack = jax.jit(left_pack)
assemble = Engine(LanguageModel(TransformerConfig(), 93), SPEC).improver_prompt


def slots(width: int, *, smallest: int = 0) -> st.SearchStrategy[list[list[tuple[int, bool]]]]:
    """Rows of (token, real or not), real ones anywhere."""
    row = st.lists(st.tuples(st.integers(smallest, EOS), st.booleans()), min_size=width, max_size=width)
    return st.lists(row, min_size=BATCH, max_size=BATCH)


def arrays(rows: list[list[tuple[int, bool]]]) -> tuple[jax.Array, jax.Array]:
    return (
        jnp.asarray([[token for token, _ in row] for row in rows], jnp.int32),
        jnp.asarray([[real for _, real in row] for row in rows]),
    )


def batch(prefixes: tuple[jax.Array, jax.Array]) -> PromptBatch:
    """A batch of which improver prompts read the prefixes alone."""
    nothing = jnp.zeros((BATCH, 0), jnp.int32), jnp.zeros((BATCH, 0), bool)
    return PromptBatch(*nothing, *prefixes, *nothing, *nothing)


def real_tokens(row: list[tuple[int, bool]]) -> list[int]:
    return [token for token, real in row if real]


def assert_left_padded(tokens_BL: jax.Array, mask_BL: jax.Array, expected: list[list[int]]) -> None:
    for tokens_L, mask_L, row in zip(np.asarray(tokens_BL), np.asarray(mask_BL), expected, strict=True):
        assert mask_L.tolist() == [False] * (len(mask_L) - len(row)) + [True] * len(row)
        assert tokens_L[mask_L].tolist() == row


@settings(deadline=None, max_examples=50)
@given(slots(6))
def test_packing_keeps_order_and_closes_gaps(rows: list[list[tuple[int, bool]]]) -> None:
    tokens_BL, mask_BL = pack(*arrays(rows))
    assert_left_padded(tokens_BL, mask_BL, [real_tokens(row) for row in rows])


@settings(deadline=None, max_examples=50)
@given(slots(PREFIX), slots(REFERENCE, smallest=EOS - 3))
def test_an_improver_prompt_is_prefix_reference_suffix(
    prefixes: list[list[tuple[int, bool]]], references: list[list[tuple[int, bool]]]
) -> None:
    """The EOS of a reference is left out. A row that holds no prompt at all gets no suffix either: it stays empty
    unless a reference is there."""
    expected = []
    for prefix, reference in zip(prefixes, references, strict=True):
        head = real_tokens(prefix)
        expected.append([*head, *(t for t in real_tokens(reference) if t != EOS), *(SUFFIX if head else ())])
    tokens_BL, mask_BL = assemble(batch(arrays(prefixes)), Responses(*arrays(references)))
    assert tokens_BL.shape == (BATCH, PREFIX + REFERENCE + len(SUFFIX))
    assert_left_padded(tokens_BL, mask_BL, expected)


def test_a_suffix_may_be_empty() -> None:
    prefix, reference = arrays([[(1, True)] * PREFIX] * BATCH), arrays([[(2, True), (0, False)] * 2] * BATCH)
    tokens_BL, mask_BL = improver_prompt(batch(prefix), Responses(*reference), spec=replace(SPEC, suffix=()))
    assert_left_padded(tokens_BL, mask_BL, [[1] * PREFIX + [2, 2]] * BATCH)
