"""The same ids, sooner: a tokenizer whose tokens never reach over a space in front of a word meets each word once.

Words repeat, and splitting a text at its spaces costs a tenth of what the tokenizer's own regular expression does. So
every distinct word (with the space in front of it) is tokenised once and its ids are looked up afterwards. That
changes no id where the tokenizer cuts there too, which `cuts_at_spaces` reads off its parts; others are asked whole.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

_MOST_WORDS = 1 << 19  # in memory at once, about 100 MB
_TOGETHER = 64  # texts, whose words are looked up while they are in the cache
_LOOSE = re.compile(r" (?=\s)")  # a space that does not stand right in front of a word
_CUT = re.compile(r"(?= \S)")
# Of published tokenizers. In each a space can only be the first character of a match, or stand among other whitespace.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
PATTERNS = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    _ENGLISH + _WORDS + r"\p{N}{1,3}|" + _REST,  # Llama 3
    _ENGLISH + _WORDS + r"\p{N}|" + _REST,  # Qwen 2
)


def cuts_at_spaces(backend: Any) -> bool:
    """Whether a fast tokenizer always cuts in front of a space that a word follows, and its BPE sees the parts alone.

    True for byte-level BPE over one of PATTERNS that normalises nothing or to NFC. A cut there is then one of the
    tokenizer's own: of the alternatives of a pattern only runs of whitespace reach over a space, and they leave the
    last one to the word. An added token that is matched in texts must hold no space and take none beside it.
    """
    spec = json.loads(backend.to_str())
    added = [token for token in spec["added_tokens"] if not token["special"]]
    loose = any(re.search(r"\s", token["content"]) or token["lstrip"] or token["rstrip"] for token in added)
    loose = loose or any(token["single_word"] or token["normalized"] and spec["normalizer"] for token in added)
    plain = spec["normalizer"] is None or spec["normalizer"]["type"] == "NFC"
    model = spec["model"]
    return plain and not loose and model["type"] == "BPE" and not model.get("dropout") and _known(spec["pre_tokenizer"])


def _known(step: Any) -> bool:
    if step is None:
        return False
    if step["type"] == "ByteLevel":
        return bool(step["use_regex"]) and not step["add_prefix_space"]
    if step["type"] != "Sequence" or [part["type"] for part in step["pretokenizers"]] != ["Split", "ByteLevel"]:
        return False
    split, bytes_ = step["pretokenizers"]
    pattern = split["pattern"].get("Regex")
    return (
        pattern in PATTERNS
        and (split["behavior"], split["invert"]) == ("Isolated", False)
        and not (bytes_["use_regex"] or bytes_["add_prefix_space"])
    )


class Encoder:
    """Texts to tokens, many at a time, with the ids of a fast tokenizer: no BOS, no EOS."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._by_word = cuts_at_spaces(backend)
        self._words = _Numbers()
        self._ids = np.zeros(0, np.int32)
        self._starts, self._lengths = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids [total] int32 end to end, lengths [texts])."""
        if not self._by_word:
            return self._ask(texts)
        if len(self._words) > _MOST_WORDS:
            self._words = _Numbers()
            self._ids, self._starts, self._lengths = self._ids[:0], self._starts[:0], self._lengths[:0]
        numbers, counts = list[np.ndarray](), list[int]()
        for start in range(0, len(texts), _TOGETHER):
            words = [_split(text) for text in texts[start : start + _TOGETHER]]
            counts += map(len, words)
            everything = map(self._words.__getitem__, chain.from_iterable(words))
            numbers.append(np.fromiter(everything, np.int64, sum(map(len, words))))
        self._learn()
        every = np.concatenate([np.zeros(0, np.int64), *numbers])
        lengths = self._lengths[every]
        return self._ids[places(self._starts[every], lengths)], sums(lengths, np.array(counts, np.int64))

    def _ask(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return _flat([item.ids for item in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)])

    def _learn(self) -> None:
        """Tokenise the words that were met for the first time."""
        new, self._words.new = self._words.new, []
        ids, lengths = self._ask([_spelled(word) for word in new])
        self._starts = np.concatenate([self._starts, len(self._ids) + np.cumsum(lengths) - lengths])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._ids = np.concatenate([self._ids, ids])


class _Numbers(dict[str, int]):
    """Words, numbered as they are met; the `new` ones in their order."""

    def __init__(self) -> None:
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        self.new.append(word)
        number = self[word] = len(self)
        return number


def places(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indices [total] of runs of `lengths` that begin at `starts`, end to end."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sum of each group of `counts` neighbours of `values`; 0 of an empty one."""
    ends = np.concatenate([[0], np.cumsum(values)])
    stops = np.cumsum(counts)
    summed: np.ndarray = ends[stops] - ends[stops - counts]
    return summed


def _split(text: str) -> list[str]:
    """A text cut in front of every space that a word follows: the first part behind a space, the others without theirs.

    So the parts that begin a text, and no others, begin with a space, and most others are what `str.split` gives.
    """
    if _LOOSE.search(text) or text.endswith(" "):
        first, *others = _CUT.split(text)
        return [" " + first, *(part[1:] for part in others)]
    words = text.split(" ")
    words[0] = " " + words[0]
    return words


def _spelled(word: str) -> str:
    """The text of a part that `_split` gave."""
    return word[1:] if word[:1] == " " else " " + word


def _flat(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(row) for row in rows], np.int64)
    return np.fromiter(chain.from_iterable(rows), np.int32, int(lengths.sum())), lengths
