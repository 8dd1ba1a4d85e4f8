"""Words and sentences of a text, of languages that put spaces between their words and of those that do not.

Of a script without spaces every character is a word: which of them belong together takes a dictionary to say
(https://unicode.org/reports/tr29/, "Word Boundaries").
"""

import re

_UNSPACED = (
    r"\u0e00-\u0eff"  # Thai, Lao
    r"\u1000-\u109f\u1780-\u17ff"  # Myanmar, Khmer
    r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # hiragana, katakana, and signs that stand among them
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_JOINED = r"\u0300-\u036f\u064b-\u065f\u0900-\u0963\u0966-\u0dff"  # signs of vowels and the like, no \w
WORDS = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
"""Words with the marks that they are written with."""
WORDS_AND_MARKS = re.compile(rf"[{_UNSPACED}]|(?:[^\W{_UNSPACED}]+|[{_JOINED}]+)+|[^\w\s]")
"""Words, and every mark by itself."""
BETWEEN_WORDS = re.compile(rf"\s+|(?<=\S)(?=[{_UNSPACED}])|(?<=[{_UNSPACED}])(?=\S)")
"""What stands between two of WORDS, where no white space stands around the text."""
_ENDS = r"(?<=[.!?؟।])\s+|(?:(?<=[。！？])|(?<=[。！？][」』”’）]))\s*(?![\s。！？」』”’）]|$)"
BETWEEN_SENTENCES = re.compile(_ENDS)
"""What stands between two sentences: one ends with a mark before white space, or with a full-width one."""
BETWEEN_SENTENCES_OR_LINES = re.compile(rf"{_ENDS}|\s*\n\s*")


def behind(sentence: str) -> str:
    """What stands between a sentence and one that is put behind it: nothing where its script writes no spaces."""
    return "" if re.search(rf"[{_UNSPACED}。！？][」』”’）]?$", sentence) else " "
