"""Rows of every kind, built by hand from tokens."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax import batch
from pit_jax.data.features import FEATURES, KINDS, Example, Layout, build, row_lengths
from tests.sequences import four_sequences

PAD, EOS, SUFFIX = 0, 1, (4, 5)
tokens = st.lists(st.integers(6, 99), max_size=7)
filled = st.lists(st.integers(6, 99), min_size=1, max_size=7)
margins = st.floats(-4, 4, width=32)
examples = st.lists(st.builds(Example, filled, filled, tokens, tokens, margins), min_size=1, max_size=5)
LAYOUT = Layout(PAD, EOS, SUFFIX, {kind: 64 for kind in KINDS}, prompt_slot=8, response_slot=8)
SFT = ("sft-policy", "sft-improver")


def sft_prompt(kind: str, example: Example) -> list[int]:
    improver = [*example.prefix, *example.rejected, *SUFFIX]
    return list(example.prompt) if kind == "sft-policy" else improver


@pytest.mark.parametrize(
    ("kind", "noun"),
    [
        ("sft-policy", batch.SftBatch),
        ("sft-improver", batch.SftBatch),
        ("reward", batch.RewardBatch),
        ("gap", batch.GapBatch),
        ("prompts", batch.PromptBatch),
    ],
)
def test_fields_are_those_of_the_batch(kind: str, noun: type) -> None:
    arrays = build(kind, [Example([9], [9], [8], [7])] * 3, LAYOUT)
    assert set(arrays) == {field.name for field in dataclasses.fields(noun)}
    for name, array in arrays.items():
        dtype = np.float32 if name == "margin_B" else bool if "mask" in name else np.int32
        assert len(array) == 3 and array.dtype == dtype, name
        assert array.ndim == (1 if name.endswith("_B") else 2)


@pytest.mark.parametrize("kind", SFT)
@given(rows=examples)
def test_sft_rows_teach_the_answer_and_its_eos_only(kind: str, rows: list[Example]) -> None:
    arrays = build(kind, rows, LAYOUT)
    for row, example in enumerate(rows):
        prompt = sft_prompt(kind, example)
        full = [*prompt, *example.chosen, EOS]
        real = len(full) - 1
        assert arrays["tokens_BL"][row, :real].tolist() == full[:-1]
        assert arrays["targets_BL"][row, :real].tolist() == full[1:]
        assert arrays["targets_BL"][row][arrays["mask_BL"][row]].tolist() == [*example.chosen, EOS]
        assert arrays["segments_BL"][row].tolist() == [1] * real + [0] * (64 - real)
        assert arrays["positions_BL"][row, :real].tolist() == list(range(real))
        assert (arrays["tokens_BL"][row, real:] == PAD).all() and not arrays["mask_BL"][row, real:].any()


@given(rows=examples)
def test_reward_rows_end_at_eos(rows: list[Example]) -> None:
    arrays = build("reward", rows, LAYOUT)
    for row, example in enumerate(rows):
        for name in ("chosen", "rejected"):
            real = arrays[f"{name}_segments_BL"][row] == 1
            assert arrays[f"{name}_BL"][row][real].tolist() == [*example.prompt, *getattr(example, name), EOS]
            assert real.argmin() == real.sum() and (arrays[f"{name}_BL"][row][~real] == PAD).all()
    assert arrays["margin_B"].tolist() == [example.margin for example in rows]


@given(rows=examples)
def test_the_gap_tree_holds_the_four_sequences(rows: list[Example]) -> None:
    """Walking from each end to the root gives exactly the plain sequence, with positions counted along it."""
    tree, plain = build("gap", rows, LAYOUT), four_sequences(rows)
    leaves = {"wl": batch.NODE_WL, "ww": batch.NODE_WW, "ll": batch.NODE_LL, "lw": batch.NODE_LW}
    for row in range(len(rows)):
        for name, leaf in leaves.items():
            end = tree[f"end_{name}_B"][row]
            assert tree["nodes_BL"][row, end] == leaf and tree["tokens_BL"][row, end] == EOS
            seen = np.isin(tree["nodes_BL"][row], batch.NODE_PARENTS[leaf])
            assert not seen[end + 1 :].any()
            last = plain[f"end_{name}_B"][row]
            assert tree["tokens_BL"][row][seen].tolist() == plain[f"tokens_{name}_BL"][row, : last + 1].tolist()
            assert tree["positions_BL"][row][seen].tolist() == list(range(last + 1))
        padding = tree["nodes_BL"][row] == 0
        assert (tree["tokens_BL"][row][padding] == PAD).all()


def test_gap_sequences_say_candidate_given_reference() -> None:
    plain = four_sequences([Example([9], [20], [30], [40])])
    assert plain["tokens_wl_BL"].tolist() == [[20, 40, 4, 5, 30, EOS]]
    assert plain["tokens_lw_BL"].tolist() == [[20, 30, 4, 5, 40, EOS]]
    assert plain["end_ww_B"].tolist() == [5]


@given(rows=examples)
def test_prompts_are_left_padded_and_references_right_padded(rows: list[Example]) -> None:
    arrays = build("prompts", rows, LAYOUT)
    for row, example in enumerate(rows):
        for name in FEATURES:
            left = name in ("prompt", "prefix")
            key = "P" if left else "R"
            ids, mask = arrays[f"{name}_B{key}"][row], arrays[f"{name}_mask_B{key}"][row]
            real = list(getattr(example, name))
            assert ids[mask].tolist() == real
            assert mask.tolist() == ([False] * (8 - len(real)) + [True] * len(real))[:: 1 if left else -1]
            assert (ids[~mask] == PAD).all()


@given(rows=examples)
def test_row_lengths_are_tight(rows: list[Example]) -> None:
    lengths = np.array([[len(getattr(example, name)) for name in FEATURES] for example in rows])
    used = {"sft-policy": "segments_BL", "sft-improver": "segments_BL", "gap": "nodes_BL"}
    for kind, name in used.items():
        real = (build(kind, rows, LAYOUT)[name] > 0).sum(axis=1)
        np.testing.assert_array_equal(row_lengths(kind, lengths, len(SUFFIX)), real)
    reward = build("reward", rows, LAYOUT)
    real = np.maximum((reward["chosen_segments_BL"] > 0).sum(1), (reward["rejected_segments_BL"] > 0).sum(1))
    np.testing.assert_array_equal(row_lengths("reward", lengths, len(SUFFIX)), real)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_does_not_fit_is_refused_not_cut(kind: str) -> None:
    tight = Layout(PAD, EOS, SUFFIX, {kind: 8 for kind in KINDS}, prompt_slot=4, response_slot=4)
    with pytest.raises(AssertionError, match="does not fit"):
        build(kind, [Example([9] * 9, [9] * 9, [8] * 9, [7] * 9)], tight)
