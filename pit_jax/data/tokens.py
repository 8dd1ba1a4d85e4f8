"""Pairs to tokens, a chunk at a time and without a Python object a token; which pairs are left out, and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data.features import FEATURES
from pit_jax.data.text.chat import Refusal
from pit_jax.data.text.templates import Run, Template
from pit_jax.data.text.words import Encoder, places, sums

SAME = "chosen and rejected are the same tokens"


@dataclass
class Pieces:
    """Distinct pieces of text and runs of constant tokens, numbered as they are met."""

    texts: dict[str, int] = field(default_factory=dict)
    runs: dict[Run, int] = field(default_factory=dict)

    def text(self, text: str) -> int:
        """Its number; even."""
        return 2 * self.texts.setdefault(text, len(self.texts))

    def run(self, run: Run) -> int:
        """Its number; odd."""
        return 2 * self.runs.setdefault(run, len(self.runs)) + 1


class Tokeniser:
    """Triples to the tokens of `template.example`; distinct texts of a chunk are encoded once."""

    def __init__(self, template: Template) -> None:
        self.template = template
        self._encode = Encoder(template.tokenizer)

    def __call__(self, triples: Sequence[Triple]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """(tokens [total] int32 of all FEATURES of all rows end to end, lengths [rows, 4], why a row has none).

        A row whose prompt the chat template cannot hold has no tokens. One whose answers are the same to the tokenizer
        has them, and a reason too: a pair without a difference.
        """
        pieces, refusals = Pieces(), list[str | None]()
        order, counts = list[int](), list[int]()
        for triple in triples:
            try:
                row = self._row(triple, pieces)
            except Refusal as refusal:
                refusals.append(str(refusal))
                counts += (0, 0, 0, 0)
                continue
            refusals.append(None)
            for feature in row:
                order += feature
                counts.append(len(feature))
        tokens, piece_lengths = self._gather(pieces, np.array(order, np.int64))
        lengths = sums(piece_lengths, np.array(counts, np.int64)).reshape(-1, len(FEATURES))
        for number in _equal_answers(tokens, lengths):
            refusals[number] = refusals[number] or SAME
        return tokens, lengths, refusals

    def _row(self, triple: Triple, pieces: Pieces) -> tuple[list[int], ...]:
        """The numbers of the pieces of each feature."""
        policy, improver, contents = self.template.framed(triple.prompt)
        numbers = [pieces.text(content) for content in contents]
        features = []
        for runs in (policy, improver):
            feature = [pieces.run(runs[0])]
            for number, run in zip(numbers, runs[1:], strict=True):
                feature += (number, pieces.run(run))
            features.append(feature)
        return (*features, [pieces.text(triple.chosen)], [pieces.text(triple.rejected)])

    def _gather(self, pieces: Pieces, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens of the pieces in `order` end to end, lengths of each)."""
        ids, text_lengths = self._encode(list(pieces.texts))
        run_lengths = np.array([len(run) for run in pieces.runs], np.int64)
        pool = np.concatenate([ids, np.array([token for run in pieces.runs for token in run], np.int32)])
        lengths_of = np.concatenate([text_lengths, run_lengths])
        starts_of = np.cumsum(lengths_of) - lengths_of
        index = np.where(order % 2 == 0, order // 2, order // 2 + len(text_lengths))
        lengths: np.ndarray = lengths_of[index]
        return pool[places(starts_of[index], lengths)], lengths


def _equal_answers(tokens: np.ndarray, lengths: np.ndarray) -> list[int]:
    """The rows [.., chosen, rejected] whose two answers, the last features of a row, are the same tokens."""
    ends, (chosen, rejected) = np.cumsum(lengths.sum(axis=1)), lengths[:, 2:].T
    alike = np.flatnonzero((chosen == rejected) & (chosen > 0)).tolist()

    def same(row: int) -> bool:
        end, size = ends[row], rejected[row]
        return np.array_equal(tokens[end - 2 * size : end - size], tokens[end - size : end])

    return [row for row in alike if same(row)]


def admit(
    lengths: np.ndarray, refusals: Sequence[str | None], frame_length: int, data: DataConfig
) -> tuple[np.ndarray, Counter[str]]:
    """Which rows are kept [rows], and the drops counted by reason, from the lengths [rows, 4] of the FEATURES.

    The rule: x of more than `prompt_length` tokens, or an answer of more than `response_length` with its EOS, is left
    out. `frame_length` = constant tokens of a policy prompt of one message; x is the rest, what stands between its
    turns included.
    """
    keep = np.array([refusal is None for refusal in refusals], bool)
    drops = Counter[str](refusal for refusal in refusals if refusal is not None)
    prompt, _, chosen, rejected = lengths.T
    rules = {f"prompt over {data.prompt_length} tokens": prompt - frame_length > data.prompt_length}
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        rules[f"{name} answer over {data.response_length} tokens with its EOS"] = answer + 1 > data.response_length
    for reason, broken in rules.items():
        if count := int((keep & broken).sum()):
            drops[reason] += count
        keep &= ~broken
    return keep, drops
