"""Answers of sentences: read back as they were written, and the faults that any of them may have."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.worlds.sentences import (
    Fault,
    Sentences,
    corrupted,
    dropped,
    inserted,
    noisy,
    repeated,
    replaced,
    sentences_of,
    text_of,
)

WORDS = st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=4).map(" ".join)


@given(st.lists(WORDS, max_size=5))
def test_sentences_are_read_back(sentences: list[str]) -> None:
    assert sentences_of(text_of(sentences)) == tuple(sentences)


def test_what_no_full_stop_ends_is_no_sentence() -> None:
    assert sentences_of("one two. three") == ("one two", "three ..")
    assert sentences_of(" one.  two . ") == ("one", "two") and sentences_of("") == () and sentences_of(".") == ("",)


def test_words_are_replaced_whole() -> None:
    assert replaced(("tea is tea", "team"), "tea", "milk") == ("milk is milk", "team")


def test_the_faults_that_any_answer_may_have() -> None:
    answer = ("a b", "c d", "e f")
    for seed in range(50):
        rng = random.Random(seed)
        assert set(dropped("", answer, rng)) < set(answer) and len(dropped("", answer, rng)) == 2
        twice = repeated("", answer, rng)
        assert len(twice) == 4 and set(twice) == set(answer)
        assert sum(a != b for a, b in zip(noisy("", answer, rng), answer, strict=True)) <= 1
        assert [sentence for sentence in inserted(answer, "x", rng) if sentence != "x"] == list(answer)


def test_noise_may_have_taken_the_only_word_of_a_sentence() -> None:
    """Where a word of an empty sentence is asked for, it is "it"."""
    drawn = {noisy("", ("a", ""), random.Random(seed)) for seed in range(200)}
    assert {("it", ""), ("a", ""), ("", ""), ("a a", "")} == drawn


def test_faults_are_met_as_often_as_their_weights() -> None:
    def marked(mark: str) -> Fault:
        def fault(prompt: str, sentences: Sentences, rng: random.Random) -> Sentences:
            return (*sentences, mark)

        return fault

    kinds = ((marked("x"), 3), (marked("y"), 1))
    text = corrupted("", "a.", 400, random.Random(0), kinds=kinds)
    assert text.startswith("a. ") and 260 < text.count("x.") < 340 and text.count("x.") + text.count("y.") == 400
    assert corrupted("", "", 3, random.Random(0), kinds=kinds) == "", "nothing is left that could be wrong"
