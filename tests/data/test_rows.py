"""Rows that are padded and read when a batch, or a shard of it, is asked for."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

from pit_jax.data.features import FEATURES, KINDS, Example, build, row_lengths
from pit_jax.data.rows import ArrayRows, JoinedRows, StoredRows, as_rows, count_tokens
from pit_jax.parallel.sharding import put_rows
from tests.world import StandInData, World

COUNT = 24


@pytest.fixture(scope="module")
def examples(world: World) -> list[Example]:
    return world.examples(COUNT)


@pytest.fixture(scope="module")
def data(world: World, examples: list[Example]) -> StandInData:
    return StandInData(world, {"rm": examples})


def bucketed(rows: StoredRows, *below: int) -> StoredRows:
    return replace(rows, layout=replace(rows.layout, buckets={rows.kind: below}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_what_the_builder_gives_of_its_examples(
    data: StandInData, examples: list[Example], kind: str
) -> None:
    rows, picked = data.rows("rm", kind), np.array([5, 0, 23, 5])
    expected = build(kind, [examples[i] for i in picked], data.layout)
    batch = rows.batch(picked)
    assert rows.lengths_N is None and batch.keys() == expected.keys() and len(rows) == COUNT
    for name, array in expected.items():
        assert (batch[name].shape, batch[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(np.asarray(batch[name]), array)
        np.testing.assert_array_equal(batch[name][1:3], array[1:3])
    assert len(rows.first(3)) == 3
    np.testing.assert_array_equal(rows.first(3).whole()[name], rows.whole()[name][:3])


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("sft-policy", ("segments_BL",)),
        ("sft-improver", ("segments_BL",)),
        ("reward", ("chosen_segments_BL", "rejected_segments_BL")),
        ("gap", ("nodes_BL",)),
    ],
)
def test_the_tokens_of_a_batch_are_its_slots_without_padding(
    data: StandInData, kind: str, names: tuple[str, ...]
) -> None:
    rows, picked = data.rows("rm", kind), np.array([5, 0, 23, 5])
    batch = rows.batch(picked)
    assert count_tokens(rows, picked) == sum(int(np.count_nonzero(np.asarray(batch[name]))) for name in names) > 0
    assert count_tokens(JoinedRows(rows, {}), picked) == count_tokens(rows, picked)
    assert count_tokens(ArrayRows({name: np.asarray(x) for name, x in batch.items()}), picked) == 0, "nobody knows"


@pytest.mark.parametrize("kind", ["sft-improver", "gap"])
def test_a_batch_is_as_wide_as_its_longest_row_needs(data: StandInData, examples: list[Example], kind: str) -> None:
    """The same rows in another width: what is real stays, and only padding goes."""
    whole = data.rows("rm", kind)
    lengths_N = row_lengths(kind, whole.feature_lengths, len(data.layout.suffix))
    middle = int(np.median(lengths_N))
    rows = bucketed(whole, middle)
    np.testing.assert_array_equal(rows.lengths_N, lengths_N)
    short, longest = np.flatnonzero(lengths_N <= middle)[:4], int(lengths_N.argmax())
    narrow, wide = rows.batch(short), rows.batch(np.append(short, longest))
    assert narrow["tokens_BL"].shape == (4, middle)
    assert wide["tokens_BL"].shape == (5, data.layout.row_lengths[kind])
    expected = build(kind, [examples[i] for i in short], data.layout)
    for name, array in expected.items():
        part = array[:, :middle] if array.ndim == 2 else array
        np.testing.assert_array_equal(np.asarray(narrow[name]), part)
        if array.ndim == 2 and name != "positions_BL":
            assert (array[:, middle:] == array[:, -1:]).all()


def test_a_shard_s_rows_are_read_and_no_others(data: StandInData, make_mesh: Any, monkeypatch: Any) -> None:
    """Of eight rows over four parts: each part once, though two devices hold it and there are five fields."""
    asked: list[list[int]] = []
    built = StoredRows.built

    def watched(self: StoredRows, rows: np.ndarray, layout: Any) -> Any:
        asked.append(rows.tolist())
        return built(self, rows, layout)

    monkeypatch.setattr(StoredRows, "built", watched)
    rows, picked = data.rows("rm", "reward"), np.arange(8)[::-1]
    batch: dict[str, Any] = put_rows(make_mesh(4, 1, 2), dict, rows.batch(picked))
    assert sorted(asked) == sorted([[7, 6], [5, 4], [3, 2], [1, 0]])
    for name, array in jax.device_get(batch).items():
        np.testing.assert_array_equal(array, rows.whole()[name][picked])


def test_rows_that_fit_behind_the_rows_of_a_fold(data: StandInData, world: World, examples: list[Example]) -> None:
    """What is too long for the slot of an answer, or for a row, is left out; what is given is what both give."""
    own = data.rows("rm", "gap")
    long, longer = replace(examples[0], chosen=[7] * 8), replace(examples[0], chosen=[7] * 7, rejected=[8] * 7)
    further = [long, *examples[:3], longer, examples[5]]
    layout = replace(own.layout, row_lengths={"gap": len(longer.prefix) + 3 * 14 + 7})
    rows = replace(StandInData(world, {"rl": further}).rows("rl", "gap"), layout=layout).fitting()
    assert rows.numbers.tolist() == [1, 2, 3, 5]
    joined = own.joined(rows)
    picked = np.array([1, COUNT + 3, COUNT, 0])
    expected = build("gap", [examples[i] for i in (1, 5, 0, 0)], own.layout)
    assert len(joined) == COUNT + 4
    for name, array in joined.batch(picked).items():
        np.testing.assert_array_equal(np.asarray(array), expected[name], err_msg=name)


def test_columns_beside_the_rows(data: StandInData) -> None:
    rows, extra = data.rows("rm", "reward"), np.arange(COUNT) / 2
    joined = JoinedRows(rows, {"extra_B": extra}, without=("margin_B",))
    batch = joined.batch(np.array([3, 1]))
    assert len(joined) == COUNT and batch["extra_B"].tolist() == [1.5, 0.5] and "margin_B" not in batch
    assert batch.keys() - {"extra_B"} == rows.batch(np.array([0])).keys() - {"margin_B"}
    assert joined.lengths_N is None and JoinedRows(bucketed(rows, 8), {}).lengths_N is not None


def test_arrays_are_rows_too() -> None:
    rows = as_rows({"x": np.arange(4), "y": np.arange(8).reshape(4, 2)})
    assert isinstance(rows, ArrayRows) and as_rows(rows) is rows and len(rows) == 4
    assert rows.batch(np.array([2, 0]))["y"].tolist() == [[4, 5], [0, 1]]


def test_lengths_by_name(data: StandInData, examples: list[Example]) -> None:
    rows = data.rows("rm", "prompts")
    for name in FEATURES:
        assert rows.tokens_of(name).tolist() == [len(getattr(example, name)) for example in examples]
    assert rows.longest("chosen") == max(len(example.chosen) for example in examples)
