"""Quick readers of pairs, and how many labels they say are wrong."""

import numpy as np
import pytest

from benchmarks.label_noise import flipped as with_flipped_labels
from pit_jax.batch import Triple
from pit_jax.data.worlds.builtin import WORLDS
from pit_jax.data.worlds.world import pairs
from pit_jax.evaluation.readers import Reading, reading, wrong_labels


def judges(count: int, *, wrong: float, first: float, second: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of two readers, right so often, agrees with labels that are wrong so often: all independent."""
    rng = np.random.default_rng(0)
    labels_N, first_N, second_N = (rng.random(count) < share for share in (1 - wrong, first, second))
    return first_N == labels_N, second_N == labels_N


@pytest.mark.parametrize(("wrong", "first", "second"), [(0.0, 0.8, 0.9), (0.1, 0.9, 0.9), (0.3, 0.95, 0.7)])
def test_wrong_labels_of_independent_judges_are_found(wrong: float, first: float, second: float) -> None:
    """Of 200,000 pairs to half a point, whatever the readers know."""
    found = wrong_labels(*judges(200_000, wrong=wrong, first=first, second=second))
    assert found is not None and found.value == pytest.approx(wrong, abs=0.005)
    assert 0 <= found.low <= found.value <= found.high < found.low + 0.02


def test_wrong_labels_by_hand() -> None:
    """Of 100 pairs both readers agree with 74 labels, each alone with 8, none with 10: a = b = 0.82 and c = 0.84, so
    (1 - 2 e)^2 = 0.64^2 / 0.68."""
    first_N = np.repeat([True, True, False, False], [74, 8, 8, 10])
    second_N = np.repeat([True, False, True, False], [74, 8, 8, 10])
    found = wrong_labels(first_N, second_N)
    assert found is not None and found.value == pytest.approx((1 - (0.64**2 / 0.68) ** 0.5) / 2)


def test_readers_that_know_nothing_say_nothing() -> None:
    right_N = np.arange(100) < 50
    assert wrong_labels(right_N, np.ones(100, bool)) is None and wrong_labels(~right_N, right_N) is None


def test_a_language_without_spaces_is_read() -> None:
    """The chosen answer names the day of the prompt, the other one another day, each in one run of characters."""
    days = "一二三四五六日"
    triples = [
        Triple(
            f"我们星期{days[i % 7]}下午{days[i // 7 % 5]}点见面吗",
            f"好的星期{days[i % 7]}见",
            f"好的星期{days[(i + 1 + i // 35 % 6) % 7]}见",
        )
        for i in range(600)
    ]
    found = reading({"sft": triples[:200], "rm": triples[200:400]}, triples[400:])
    assert found is not None and found.right > 0.95


@pytest.mark.parametrize("flipped", [0.0, 0.2])
def test_noise_of_a_world_is_found_and_never_denied(flipped: float) -> None:
    """2% of the labels of `notes` are wrong, and flipping 20% of them makes 21%."""
    triples = with_flipped_labels(pairs(WORLDS["notes"], 3_000, 0), flipped)
    found = reading({"sft": triples[:1_000], "rm": triples[1_000:2_000]}, triples[2_000:])
    assert found is not None and found.wrong_labels is not None
    true = 0.02 + flipped * 0.96
    assert true - 0.01 < found.wrong_labels.high and found.wrong_labels.value < true + 0.1
    assert found.right > 0.85 - flipped and (found.read, found.asked) == (1_000, 1_000)


def test_too_few_pairs_are_no_reading() -> None:
    few = [Triple(f"p{i}", "yes", "no") for i in range(200)]
    assert reading({"sft": few, "rm": few}, few[:99]) is None and reading({"sft": few, "rm": few[:1]}, few) is None
    found = reading({"sft": few, "rm": few}, few)
    assert found == Reading(200, 200, 1.0, 1.0, 1.0, found.wrong_labels if found else None)
    assert found.wrong_labels is not None and found.wrong_labels.value == 0
