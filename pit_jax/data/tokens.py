"""Pairs to tokens, a chunk at a time and without a Python object a token; which pairs are left out, and why."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data.features import FEATURES
from pit_jax.data.text.chat import Refusal
from pit_jax.data.text.templates import Place, Run, Template, Text
from pit_jax.data.text.words import Encoder, places, sums

SAME = "chosen and rejected are the same tokens"
SHARE = 0.99  # of the examples, which limits that nobody has set let in


class Pieces:
    """Distinct texts, apart by what encodes them, and runs of constant tokens, numbered as they are met."""

    def __init__(self, encoders: int) -> None:
        self.texts = [dict[str, int]() for _ in range(encoders)]
        self.runs: dict[Run, int] = {}

    def text(self, text: str, encoder: int) -> int:
        """Its number: of remainder `encoder`, divided by the number of encoders and one."""
        texts = self.texts[encoder]
        return (len(self.texts) + 1) * texts.setdefault(text, len(texts)) + encoder

    def run(self, run: Run) -> int:
        """Its number, of the last remainder."""
        return (len(self.texts) + 1) * self.runs.setdefault(run, len(self.runs)) + len(self.texts)


class Tokeniser:
    """Triples to the tokens of `template.example`; distinct texts of a chunk are encoded once."""

    def __init__(self, template: Template) -> None:
        self.template = template
        backends: list[Any] = []
        self._encoder_at: dict[str, int] = {}
        for place in get_args(Place):
            backend = getattr(template.tokenizer, place)
            if not any(backend is known for known in backends):
                backends.append(backend)
            self._encoder_at[place] = next(i for i, known in enumerate(backends) if known is backend)
        self._encoders = [Encoder(backend) for backend in backends]

    def __call__(self, triples: Sequence[Triple]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """(tokens [total] int32 of all FEATURES of all rows end to end, lengths [rows, 4], why a row has none).

        A row whose prompt the chat template cannot hold, or could not tell from what it writes, has no tokens. One
        whose answers are the same to the tokenizer has them, and a reason too: a pair without a difference.
        """
        pieces, refusals = Pieces(len(self._encoders)), list[str | None]()
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
        self.template.check(triple.prompt, triple.chosen, triple.rejected)
        features: list[Sequence[Run | Text]] = [*self.template.pieces(triple.prompt)]
        features += ([Text("texts", answer)] for answer in (triple.chosen, triple.rejected))
        return tuple([self._number(piece, pieces) for piece in feature] for feature in features)

    def _number(self, piece: Run | Text, pieces: Pieces) -> int:
        if isinstance(piece, Text):
            return pieces.text(piece.words, self._encoder_at[piece.place])
        return pieces.run(piece)

    def _gather(self, pieces: Pieces, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens of the pieces in `order` end to end, lengths of each)."""
        encoded = [encode(list(texts)) for encode, texts in zip(self._encoders, pieces.texts, strict=True)]
        run_lengths = np.array([len(run) for run in pieces.runs], np.int64)
        runs = np.array([token for run in pieces.runs for token in run], np.int32)
        pool = np.concatenate([*(ids for ids, _ in encoded), runs])
        sizes = [*(lengths for _, lengths in encoded), run_lengths]
        lengths_of = np.concatenate(sizes)
        starts_of = np.cumsum(lengths_of) - lengths_of
        counts = np.array([len(part) for part in sizes], np.int64)
        index = (np.cumsum(counts) - counts)[order % len(sizes)] + order // len(sizes)
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


def with_limits(data: DataConfig, lengths: np.ndarray, frame_length: int) -> DataConfig:
    """`data` with the limits that it leaves open: what SHARE of the `lengths` [rows, 4] need; arguments as `admit`."""
    prompt, _, chosen, rejected = lengths.T

    def most(lengths_N: np.ndarray) -> int:
        return max(1, int(np.quantile(lengths_N, SHARE, method="higher")))

    return replace(
        data,
        prompt_length=data.prompt_length or most(prompt - frame_length),
        response_length=data.response_length or most(np.maximum(chosen, rejected) + 1),
    )


def admit(
    lengths: np.ndarray, refusals: Sequence[str | None], frame_length: int, data: DataConfig
) -> tuple[np.ndarray, Counter[str]]:
    """Which rows are kept [rows], and the drops counted by reason, from the lengths [rows, 4] of the FEATURES.

    The rule: x of more than `prompt_length` tokens, or an answer of more than `response_length` with its EOS, is left
    out. `frame_length` = tokens of a policy prompt of one message without a text; x is the rest, what stands between
    its turns included.
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
