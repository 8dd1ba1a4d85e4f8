"""Words and sentences of texts in several scripts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.text.segments import (
    BETWEEN_SENTENCES,
    BETWEEN_SENTENCES_OR_LINES,
    BETWEEN_WORDS,
    WORDS,
    WORDS_AND_MARKS,
    behind,
)


@pytest.mark.parametrize(
    ("text", "words", "words_and_marks"),
    [
        ("it's 3.50, ok?", "it's|3.50,|ok?", "it|'|s|3|.|50|,|ok|?"),
        ("明天 3点OK。", "明|天|3|点|OK。", "明|天|3|点|OK|。"),
        ("さようなら", "さ|よ|う|な|ら", "さ|よ|う|な|ら"),
        ("नमस्ते दुनिया।", "नमस्ते|दुनिया।", "नमस्ते|दुनिया|।"),
        ("안녕하세요 여러분.", "안녕하세요|여러분.", "안녕하세요|여러분|."),
        ("cafe\u0301 ok", "cafe\u0301|ok", "cafe\u0301|ok"),
        (" \n", "", ""),
    ],
)
def test_words(text: str, words: str, words_and_marks: str) -> None:
    assert "|".join(WORDS.findall(text)) == words
    assert "|".join(WORDS_AND_MARKS.findall(text)) == words_and_marks


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It costs 3.50. Really?  Yes\nno", "It costs 3.50.|Really?|Yes\nno"),
        ("「好！」我说。  走吧！！", "「好！」|我说。|走吧！！"),
        ("ठीक है। चलो।", "ठीक है।|चलो।"),
        ("نعم؟ لا", "نعم؟|لا"),
    ],
)
def test_sentences(text: str, sentences: str) -> None:
    assert "|".join(BETWEEN_SENTENCES.split(text)) == sentences
    assert "|".join(BETWEEN_SENTENCES_OR_LINES.split(text)) == sentences.replace("\n", "|")


@pytest.mark.parametrize(
    ("sentence", "between"), [("ok.", " "), ("OK。", ""), ("「好！」", ""), ("明天", ""), ("", " ")]
)
def test_what_stands_behind_a_sentence(sentence: str, between: str) -> None:
    assert behind(sentence) == between


@given(st.text(alphabet="ab_é日本。.!」 \n", max_size=12).map(str.strip))
def test_nothing_is_lost_where_a_text_is_split(text: str) -> None:
    for between in (BETWEEN_WORDS, BETWEEN_SENTENCES, BETWEEN_SENTENCES_OR_LINES):
        pieces, gaps = between.split(text), between.findall(text)
        assert "".join(piece + gap for piece, gap in zip(pieces, [*gaps, ""], strict=True)) == text
    assert [word for word in BETWEEN_WORDS.split(text) if word] == WORDS.findall(text)


@given(st.text(alphabet="ab_é3.!' \n", max_size=12))
def test_words_are_what_spaces_separate_where_they_are_written(text: str) -> None:
    assert WORDS.findall(text) == text.split()
    assert WORDS_AND_MARKS.findall(text) == re.findall(r"\w+|[^\w\s]", text)
