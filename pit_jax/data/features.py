"""From tokens to the fields of the batches in pit_jax/batch.py: NumPy row builders.

Kinds: sft-policy and sft-improver (SftBatch), reward (RewardBatch), gap (GapBatch), prompts (PromptBatch).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pit_jax import batch as nodes

KINDS = ("sft-policy", "sft-improver", "reward", "gap", "prompts")
Arrays = dict[str, np.ndarray]


Tokens = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Example:
    """One triple as tokens: policy prompt, improver prefix, the two answers without EOS; and its margin."""

    prompt: Tokens
    prefix: Tokens
    chosen: Tokens
    rejected: Tokens
    margin: float = 0.0


FEATURES = ("prompt", "prefix", "chosen", "rejected")  # the token features of an Example


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below the number."""
    return -(-number // multiple) * multiple


@dataclass(frozen=True)
class Layout:
    """What the rows of a data set share: constant tokens and row lengths, equal in every fold."""

    pad_id: int
    eos_id: int
    suffix: tuple[int, ...]  # between reference and answer
    row_lengths: Mapping[str, int]  # L of each kind but prompts, a multiple of 8
    prompt_slot: int  # P, a multiple of 4
    response_slot: int  # T, and the reference slot R: the longest answer and its EOS, a multiple of 4
    buckets: Mapping[str, Sequence[int]] = field(default_factory=dict)  # of each kind: the widths below its L

    def widths(self, kind: str) -> tuple[int, ...]:
        """The widths that rows of a kind are padded to, in rising order."""
        return (*self.buckets.get(kind, ()), self.row_lengths[kind])

    def narrowed(self, kind: str, width: int) -> "Layout":
        """The layout of rows of a kind that are padded to `width`."""
        return replace(self, row_lengths={**self.row_lengths, kind: width})


def row_lengths(kind: str, lengths: np.ndarray, suffix: int) -> np.ndarray:
    """Tokens [rows] of rows of `kind` before padding, from the lengths [rows, 4] of the FEATURES of each example."""
    prompt, prefix, chosen, rejected = lengths.T
    return {
        "sft-policy": prompt + chosen,
        "sft-improver": prefix + rejected + suffix + chosen,
        "reward": prompt + np.maximum(chosen, rejected) + 1,
        "gap": prefix + 3 * (chosen + rejected) + 2 * suffix + 4,
    }[kind]


def real_tokens(kind: str, lengths: np.ndarray, suffix: int) -> int:
    """Tokens of all rows of `kind`, padding left out; arguments as of `row_lengths`. A pair of rows counts as two."""
    total = int(row_lengths(kind, lengths, suffix).sum())
    if kind != "reward":
        return total
    prompt, _, chosen, rejected = lengths.T
    return total + int((prompt + np.minimum(chosen, rejected) + 1).sum())


def build(kind: str, examples: Sequence[Example], layout: Layout) -> Arrays:
    """Arrays [B, ..] of `kind`, one row an example, with the field names of its batch class."""
    return _BUILDERS[kind](examples, layout)


def _sft_pair(kind: str, example: Example, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    answer = _joined(example.chosen, (layout.eos_id,))
    if kind == "sft-policy":
        return _joined(example.prompt), answer
    return _joined(example.prefix, example.rejected, layout.suffix), answer


def _joined(*pieces: Tokens) -> np.ndarray:
    return np.concatenate([np.asarray(piece, np.int32) for piece in pieces])


def _sft_rows(pairs: Sequence[tuple[np.ndarray, np.ndarray]], length: int, pad_id: int) -> Arrays:
    """Rows of one (prompt, answer EOS) each; targets are the tokens one place on."""
    full = [_joined(prompt, answer) for prompt, answer in pairs]
    real_BL = _real([row[:-1] for row in full], length)
    starts_B1 = np.array([[len(prompt) - 1] for prompt, _ in pairs])
    places_L = np.arange(length, dtype=np.int32)
    return {
        "tokens_BL": _pad([row[:-1] for row in full], length, pad_id),
        "targets_BL": _pad([row[1:] for row in full], length, pad_id),
        "mask_BL": real_BL & (places_L >= starts_B1),
        "positions_BL": np.where(real_BL, places_L, 0).astype(np.int32),
        "segments_BL": real_BL.astype(np.int32),
    }


def _sft(kind: str) -> Callable[[Sequence[Example], Layout], Arrays]:
    def rows(examples: Sequence[Example], layout: Layout) -> Arrays:
        pairs = [_sft_pair(kind, example, layout) for example in examples]
        return _sft_rows(pairs, layout.row_lengths[kind], layout.pad_id)

    return rows


def _reward_rows(examples: Sequence[Example], layout: Layout) -> Arrays:
    arrays: Arrays = {}
    for name in ("chosen", "rejected"):
        rows = [_joined(example.prompt, getattr(example, name), (layout.eos_id,)) for example in examples]
        length = layout.row_lengths["reward"]
        arrays[f"{name}_BL"] = _pad(rows, length, layout.pad_id)
        arrays[f"{name}_segments_BL"] = _real(rows, length).astype(np.int32)
    return arrays | {"margin_B": np.array([example.margin for example in examples], np.float32)}


def tree_slots(layout: Layout) -> nodes.TreeSlots:
    """The most tokens of the nodes of a gap row."""
    answer = layout.response_slot
    return nodes.TreeSlots(layout.prompt_slot, answer - 1 + len(layout.suffix), answer)


def _slot_of(branch: int, slots: nodes.TreeSlots) -> int:
    if branch == nodes.NODE_TRUNK:
        return slots.trunk
    return slots.reference if branch in (nodes.NODE_REF_W, nodes.NODE_REF_L) else slots.candidate


def _gap_rows(examples: Sequence[Example], layout: Layout) -> Arrays:
    shape = (len(examples), layout.row_lengths["gap"])
    tokens, positions = np.full(shape, layout.pad_id, np.int32), np.zeros(shape, np.int32)
    branches, slots = np.zeros(shape, np.int32), tree_slots(layout)
    ends = {name: np.zeros(len(examples), np.int32) for name in ("wl", "ww", "ll", "lw")}
    for row, example in enumerate(examples):
        trunk, chosen, rejected = _joined(example.prefix), _joined(example.chosen), _joined(example.rejected)
        pieces = [(nodes.NODE_TRUNK, trunk, 0, "")]
        for letter, reference in (("w", chosen), ("l", rejected)):
            branch = nodes.NODE_REF_W if letter == "w" else nodes.NODE_REF_L
            depth = len(trunk) + len(reference) + len(layout.suffix)
            better, worse = (nodes.NODE_WW, nodes.NODE_LW) if letter == "w" else (nodes.NODE_WL, nodes.NODE_LL)
            pieces.append((branch, _joined(reference, layout.suffix), len(trunk), ""))
            pieces.append((better, _joined(chosen, (layout.eos_id,)), depth, f"w{letter}"))
            pieces.append((worse, _joined(rejected, (layout.eos_id,)), depth, f"l{letter}"))
        start = 0
        for branch, ids, depth, name in pieces:
            stop = start + len(ids)
            assert stop <= shape[1], f"a gap row of {stop} tokens or more does not fit {shape[1]}"
            assert len(ids) <= _slot_of(branch, slots), f"{len(ids)} tokens of node {branch} do not fit {slots}"
            tokens[row, start:stop] = ids
            positions[row, start:stop] = np.arange(depth, depth + len(ids))
            branches[row, start:stop] = branch
            if name:
                ends[name][row] = stop - 1
            start = stop
    arrays = {"tokens_BL": tokens, "positions_BL": positions, "nodes_BL": branches}
    return arrays | {f"end_{name}_B": end for name, end in ends.items()}


def _prompt_rows(examples: Sequence[Example], layout: Layout) -> Arrays:
    arrays: Arrays = {}
    for name in FEATURES:
        rows = [getattr(example, name) for example in examples]
        left = name in ("prompt", "prefix")
        slot, key = (layout.prompt_slot, "P") if left else (layout.response_slot, "R")
        arrays[f"{name}_B{key}"] = _pad(rows, slot, layout.pad_id, left=left)
        arrays[f"{name}_mask_B{key}"] = _real(rows, slot, left=left)
    return arrays


def right_padded(rows: Sequence[Tokens], slot: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [rows, slot] int32 and their mask; an empty slot is padding."""
    return _pad(rows, slot, pad_id), _real(rows, slot)


def _pad(rows: Sequence[Tokens], length: int, pad_id: int, left: bool = False) -> np.ndarray:
    padded = np.full((len(rows), length), pad_id, np.int32)
    if rows:
        padded[_real(rows, length, left)] = _joined(*rows)
    return padded


def _real(rows: Sequence[Tokens], length: int, left: bool = False) -> np.ndarray:
    lengths = np.array([len(row) for row in rows], np.int64)
    assert not len(rows) or lengths.max() <= length, f"a row of {lengths.max()} tokens does not fit {length}"
    slots = np.arange(length)
    return slots >= (length - lengths)[:, None] if left else slots < lengths[:, None]


_BUILDERS: dict[str, Callable[[Sequence[Example], Layout], Arrays]] = {
    "sft-policy": _sft("sft-policy"),
    "sft-improver": _sft("sft-improver"),
    "reward": _reward_rows,
    "gap": _gap_rows,
    "prompts": _prompt_rows,
}
