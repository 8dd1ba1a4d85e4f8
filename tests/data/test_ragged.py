"""Ragged rows there and back."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.ragged import Ragged, RaggedFiles, RaggedWriter, utf8
from pit_jax.data.text.stored import TEXTS, Texts, Triples

rows = st.lists(st.lists(st.integers(0, 65535), max_size=5), max_size=6)


@given(chunks=st.lists(rows, max_size=4))
def test_what_is_appended_is_read_back(tmp_path_factory: pytest.TempPathFactory, chunks: list[list[list[int]]]) -> None:
    folder = tmp_path_factory.mktemp("ragged")
    with RaggedWriter(folder, "x", np.uint16) as writer:
        for chunk in chunks:
            lengths = np.array([len(row) for row in chunk], int)
            writer.append(np.array([value for row in chunk for value in row], np.int32), lengths)
    everything, files = [row for chunk in chunks for row in chunk], RaggedFiles(folder, "x", np.uint16)
    found = files.rows
    assert [found[i].tolist() for i in range(len(found))] == everything
    assert found.lengths(np.arange(len(found))).tolist() == list(map(len, everything))
    firsts = np.arange(len(found) - 1)[::-1]
    pairs = [[row.tolist() for row in pair] for pair in found.neighbours(firsts, 2)]
    assert pairs == [everything[first : first + 2] for first in firsts]
    values, offsets = files.read(len(everything) // 2, len(everything))
    parts = [values[a:b].tolist() for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
    assert parts == everything[len(everything) // 2 :] and offsets[0] == 0


@given(first=rows, then=rows)
def test_rows_behind_rows(first: list[list[int]], then: list[list[int]]) -> None:
    """In the dtype of the first ones."""
    parts = [
        Ragged.of(np.array([value for row in some for value in row], dtype), np.array([len(row) for row in some], int))
        for some, dtype in ((first, np.uint16), (then, np.int32))
    ]
    joined = parts[0].joined(parts[1])
    assert [joined[i].tolist() for i in range(len(joined))] == first + then and joined.values.dtype == np.uint16


def test_texts_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    pairs = [("say hi 🙂", "hi", ""), ("", "é", "no\n"), ("x", "y", "z")]
    with RaggedWriter(tmp_path, TEXTS, np.uint8) as writer:
        writer.append(*utf8([text for pair in pairs for text in pair]))
    texts = Texts(tmp_path)
    assert [texts[i] for i in range(3)] == pairs
    assert [(row.prompt, row.chosen, row.rejected) for row in texts.read(1, 3)] == pairs[1:]
    fold = Triples(texts, np.array([0.5, 1.5, 2.5], np.float32), np.array([2, 0], np.int32))
    assert [(row.prompt, row.margin) for row in fold] == [("x", 2.5), ("say hi 🙂", 0.5)]
    assert fold[:1] == [fold[0]] and fold[-1].prompt == "say hi 🙂" and len(fold) == 2
