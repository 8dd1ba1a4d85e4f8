import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.evaluation.texts import copy_rate, edit_distances, kept_and_new

TEXTS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=6).map(" ".join)


def distance(text: str, reference: str) -> float:
    return float(edit_distances([text], [reference])[0])


def plain_distance(left: list[str], right: list[str]) -> int:
    """Levenshtein distance by its recursive definition."""
    if not left or not right:
        return len(left) + len(right)
    if left[0] == right[0]:
        return plain_distance(left[1:], right[1:])
    return 1 + min(
        plain_distance(left[1:], right), plain_distance(left, right[1:]), plain_distance(left[1:], right[1:])
    )


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("please bring two cakes", "bring a cake", 3 / 4),  # one word put in, two replaced; the longer has four
        ("bring a cake", "please bring two cakes", 3 / 4),
        ("bring a cake", "bring a  cake\n", 0.0),  # white space is no word
        ("a b c d", "b c d a", 2 / 4),  # taken out in front, put in behind
        ("", "one two", 1.0),
        ("one two", "", 1.0),
        ("", "", 0.0),
        ("x y", "a b c", 1.0),
        ("我们明天见。", "我们今天见", 2 / 6),  # a character is a word where no spaces are written
    ],
)
def test_known_numbers(text: str, reference: str, expected: float) -> None:
    assert distance(text, reference) == pytest.approx(expected)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_many_pairs_at_once_equal_the_definition(pairs: list[tuple[str, str]]) -> None:
    found_N = edit_distances([left for left, _ in pairs], [right for _, right in pairs])
    for found, (left, right) in zip(found_N, pairs, strict=True):
        words = left.split(), right.split()
        assert found == pytest.approx(plain_distance(*words) / max(1, *map(len, words)))


@given(TEXTS, TEXTS)
def test_a_distance_has_no_direction_and_stays_between_0_and_1(left: str, right: str) -> None:
    assert distance(left, right) == distance(right, left)
    assert 0.0 <= distance(left, right) <= 1.0
    assert (distance(left, right) == 0.0) == (left.split() == right.split())


def plain_common(left: list[str], right: list[str]) -> int:
    """Words of the longest common subsequence, by its recursive definition."""
    if not left or not right:
        return 0
    if left[0] == right[0]:
        return 1 + plain_common(left[1:], right[1:])
    return max(plain_common(left[1:], right), plain_common(left, right[1:]))


def kept_new(text: str, reference: str) -> tuple[float, float]:
    kept_N, new_N = kept_and_new([text], [reference])
    return float(kept_N[0]), float(new_N[0])


@pytest.mark.parametrize(
    ("text", "reference", "kept", "new"),
    [
        ("please bring two cakes", "bring a cake", 1 / 3, 3 / 4),  # "bring"
        ("bring a cake", "please bring two cakes", 1 / 4, 2 / 3),  # the same word the other way round
        ("bring a  cake\n", "bring a cake", 1.0, 0.0),  # white space is no word
        ("b c d a", "a b c d", 3 / 4, 1 / 4),  # "a" moves behind the others
        ("a a", "a", 1.0, 1 / 2),  # said twice
        ("bring a cake", "please bring us a big cake", 3 / 6, 0.0),  # only words taken out
        ("", "one two", 0.0, 0.0),
        ("one two", "", 1.0, 1.0),
        ("", "", 1.0, 0.0),
        ("x y", "a b c", 0.0, 1.0),
    ],
)
def test_words_that_are_kept_and_new(text: str, reference: str, kept: float, new: float) -> None:
    assert kept_new(text, reference) == pytest.approx((kept, new))


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_what_is_kept_is_the_longest_common_subsequence(pairs: list[tuple[str, str]]) -> None:
    """So it is the same number of words either way round."""
    for texts, references in ([*zip(*pairs, strict=True)], [*zip(*pairs, strict=True)][::-1]):
        for kept, new, text, reference in zip(*kept_and_new(texts, references), texts, references, strict=True):
            common, words, others = (
                plain_common(text.split(), reference.split()),
                len(text.split()),
                len(reference.split()),
            )
            assert kept == pytest.approx(common / others if others else 1.0)
            assert new == pytest.approx(1 - common / words if words else 0.0)


@given(TEXTS, TEXTS)
def test_what_is_put_behind_an_answer_keeps_it_whole(reference: str, more: str) -> None:
    kept, new = kept_new(f"{reference} {more}", reference)
    words = len(reference.split()), len(more.split())
    assert (kept, new) == pytest.approx((1.0, words[1] / max(1, sum(words))))
    assert kept_new(reference, reference) == (1.0, 0.0)


def test_a_copy_is_exact() -> None:
    """Two of four: white space and case count."""
    texts, references = ["a b", "a b", "a b", ""], ["a b", "a  b", "A b", ""]
    assert copy_rate(texts, references) == 0.5
    assert np.array_equal(edit_distances(texts, references), [0.0, 0.0, 0.5, 0.0])


@pytest.mark.parametrize(("texts", "references"), [([], []), (["a"], []), (["a"], ["a", "b"])])
def test_uneven_texts_are_named(texts: list[str], references: list[str]) -> None:
    message = f"found {len(texts)} texts and {len(references)} references"
    for statistic in (copy_rate, edit_distances, kept_and_new):
        with pytest.raises(ValueError, match=message):
            statistic(texts, references)
