"""Noise among the words of a sentence."""

import random

from pit_jax.data.worlds.words import broken, listed


def test_a_list_of_words() -> None:
    assert listed("one, two words,three") == ["one", "two words", "three"]


def test_a_broken_sentence_differs_by_one_word_or_its_place() -> None:
    found = {broken("a b c", ["x y"], random.Random(seed)) for seed in range(300)}
    lost, doubled = {"b c", "a c", "a b"}, {"a a b c", "a b b c", "a b c c"}
    swapped, foreign = {"b a c", "a c b", "c b a"}, {f"{x} b c" for x in "xy"} | {f"a {x} c" for x in "xy"}
    assert found == lost | doubled | swapped | foreign | {"a b x", "a b y"}
    assert broken("", ["x"], random.Random(0)) == ""
