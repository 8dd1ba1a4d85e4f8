"""From tokens to the fields of the batches in pit_jax/batch.py: NumPy row builders, and seqio converters around them.

Kinds: sft-policy and sft-improver (SftBatch), reward (RewardBatch), gap (GapBatch), prompts (PromptBatch).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pit_jax import batch as nodes

if TYPE_CHECKING:
    import seqio

KINDS = ("sft-policy", "sft-improver", "reward", "gap", "prompts")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Example:
    """One triple as tokens: policy prompt, improver prefix, the two answers without EOS; and its margin."""

    prompt: Sequence[int]
    prefix: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]
    margin: float = 0.0


FEATURES = ("prompt", "prefix", "chosen", "rejected")  # the token features of an Example


@dataclass(frozen=True)
class Layout:
    """What the rows of a data set share: constant tokens and row lengths, equal in every fold."""

    pad_id: int
    eos_id: int
    suffix: tuple[int, ...]  # between reference and answer
    row_lengths: Mapping[str, int]  # L of each kind but prompts, a multiple of 8
    prompt_slot: int  # P, a multiple of 4
    response_slot: int  # T, and the reference slot R: the longest answer and its EOS, a multiple of 4


def row_lengths(kind: str, lengths: np.ndarray, suffix: int) -> np.ndarray:
    """Tokens [rows] of rows of `kind` before padding, from the lengths [rows, 4] of the FEATURES of each example."""
    prompt, prefix, chosen, rejected = lengths.T
    return {
        "sft-policy": prompt + chosen,
        "sft-improver": prefix + rejected + suffix + chosen,
        "reward": prompt + np.maximum(chosen, rejected) + 1,
        "gap": prefix + 3 * (chosen + rejected) + 2 * suffix + 4,
    }[kind]


def build(kind: str, examples: Sequence[Example], layout: Layout) -> Arrays:
    """Arrays [B, ..] of `kind`, one row an example, with the field names of its batch class."""
    return _BUILDERS[kind](examples, layout)


def _sft_pair(kind: str, example: Example, layout: Layout) -> tuple[list[int], list[int]]:
    answer = [*example.chosen, layout.eos_id]
    if kind == "sft-policy":
        return list(example.prompt), answer
    return [*example.prefix, *example.rejected, *layout.suffix], answer


def _sft_rows(pairs: Sequence[tuple[list[int], list[int]]], length: int, pad_id: int) -> Arrays:
    """Rows of one (prompt, answer EOS) each; targets are the tokens one place on."""
    full = [prompt + answer for prompt, answer in pairs]
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
        rows = [[*example.prompt, *getattr(example, name), layout.eos_id] for example in examples]
        length = layout.row_lengths["reward"]
        arrays[f"{name}_BL"] = _pad(rows, length, layout.pad_id)
        arrays[f"{name}_segments_BL"] = _real(rows, length).astype(np.int32)
    return arrays | {"margin_B": np.array([example.margin for example in examples], np.float32)}


def _gap_rows(examples: Sequence[Example], layout: Layout) -> Arrays:
    shape = (len(examples), layout.row_lengths["gap"])
    tokens, positions = np.full(shape, layout.pad_id, np.int32), np.zeros(shape, np.int32)
    branches = np.zeros(shape, np.int32)
    ends = {name: np.zeros(len(examples), np.int32) for name in ("wl", "ww", "ll", "lw")}
    for row, example in enumerate(examples):
        trunk, chosen, rejected = list(example.prefix), list(example.chosen), list(example.rejected)
        suffix, eos = list(layout.suffix), [layout.eos_id]
        pieces = [(nodes.NODE_TRUNK, trunk, 0, "")]
        for letter, reference in (("w", chosen), ("l", rejected)):
            branch = nodes.NODE_REF_W if letter == "w" else nodes.NODE_REF_L
            depth = len(trunk) + len(reference) + len(suffix)
            better, worse = (nodes.NODE_WW, nodes.NODE_LW) if letter == "w" else (nodes.NODE_WL, nodes.NODE_LL)
            pieces.append((branch, reference + suffix, len(trunk), ""))
            pieces.append((better, chosen + eos, depth, f"w{letter}"))
            pieces.append((worse, rejected + eos, depth, f"l{letter}"))
        start = 0
        for branch, ids, depth, name in pieces:
            stop = start + len(ids)
            assert stop <= shape[1], f"a gap row of {stop} tokens or more does not fit {shape[1]}"
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
        rows = [list(getattr(example, name)) for example in examples]
        left = name in ("prompt", "prefix")
        slot, key = (layout.prompt_slot, "P") if left else (layout.response_slot, "R")
        arrays[f"{name}_B{key}"] = _pad(rows, slot, layout.pad_id, left=left)
        arrays[f"{name}_mask_B{key}"] = _real(rows, slot, left=left)
    return arrays


def right_padded(rows: Sequence[Sequence[int]], slot: int, pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [rows, slot] int32 and their mask; an empty slot is padding."""
    return _pad(rows, slot, pad_id), _real(rows, slot)


def _pad(rows: Sequence[Sequence[int]], length: int, pad_id: int, left: bool = False) -> np.ndarray:
    padded = np.full((len(rows), length), pad_id, np.int32)
    padded[_real(rows, length, left)] = [token for row in rows for token in row]
    return padded


def _real(rows: Sequence[Sequence[int]], length: int, left: bool = False) -> np.ndarray:
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

_CHUNK = 1024  # examples a converter hands to NumPy at once
_FILL = -1  # marks the end of a feature inside a chunk


def converter(kind: str, layout: Layout) -> "seqio.FeatureConverter":
    """seqio converter from the task features (FEATURES, `margin` and `id`) to the fields of `kind` and `id`, the
    number of a row's example."""
    return _converter_class(kind)(layout)


@functools.cache
def _converter_class(kind: str) -> Any:
    import seqio
    import tensorflow as tf

    spec = seqio.FeatureConverter.FeatureSpec
    probe = Layout(0, 1, (2,), dict.fromkeys(KINDS, 16), 4, 4)
    fields = build(kind, [Example([3], [3], [3], [3])], probe) | {"id": np.zeros(1, np.int32)}

    class Converter(seqio.FeatureConverter):
        TASK_FEATURES = {name: spec(dtype=tf.int32) for name in FEATURES} | {
            "margin": spec(dtype=tf.float32, rank=0),
            "id": spec(dtype=tf.int32, rank=0),
        }
        MODEL_FEATURES = {
            name: spec(dtype=tf.as_dtype(field.dtype), rank=field.ndim - 1) for name, field in fields.items()
        }
        PACKING_FEATURE_DTYPES: dict[str, Any] = {}

        def __init__(self, layout: Layout) -> None:
            super().__init__(pack=False, apply_length_check=False)  # `build` checks that every row fits
            self.layout = layout

        def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
            layout = self.layout
            slots = {"P": layout.prompt_slot, "R": layout.response_slot, "L": layout.row_lengths.get(kind, 0)}
            return {name: slots.get(name[-1], 1) for name in self.MODEL_FEATURES}

        def _convert_features(self, ds: Any, task_feature_lengths: Mapping[str, int]) -> Any:
            lengths = self.get_model_feature_lengths(task_feature_lengths)

            def shaped(chunk: dict[str, Any]) -> dict[str, Any]:
                outputs = tf.numpy_function(rows, [chunk[name] for name in self.TASK_FEATURES], dtypes)
                named = dict(zip(self.MODEL_FEATURES, outputs, strict=True))
                return {
                    name: tf.ensure_shape(x, [None] + [lengths[name]] * self.MODEL_FEATURES[name].rank)
                    for name, x in named.items()
                }

            def rows(*columns: np.ndarray) -> list[np.ndarray]:
                *features, margins, ids = columns
                real = [[row[row != _FILL].tolist() for row in feature] for feature in features]
                examples = [Example(*group) for group in zip(*real, margins.tolist(), strict=True)]
                arrays = build(kind, examples, self.layout) | {"id": ids}
                return [arrays[name] for name in self.MODEL_FEATURES]

            dtypes = [feature.dtype for feature in self.MODEL_FEATURES.values()]
            shapes = {name: [None] * feature.rank for name, feature in self.TASK_FEATURES.items()}
            fill = {name: tf.constant(_FILL, feature.dtype) for name, feature in self.TASK_FEATURES.items()}
            return ds.padded_batch(_CHUNK, shapes, padding_values=fill).map(shaped).unbatch()

    return Converter
