"""A tokenizer as seqio knows one."""

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pit_jax.data.text.tokenizers import Tokenizer

if TYPE_CHECKING:
    import seqio


def hf_vocabulary(tokenizer: Tokenizer) -> "seqio.Vocabulary":
    """`tokenizer` as a seqio vocabulary. Equal tokenizers give equal vocabularies, as mixtures require."""
    return _vocabulary_class()(tokenizer)


@functools.cache
def _vocabulary_class() -> Any:
    import seqio
    import tensorflow as tf

    class HfVocabulary(seqio.Vocabulary):
        def __init__(self, tokenizer: Tokenizer) -> None:
            super().__init__(extra_ids=0)
            self.tokenizer = tokenizer

        bos_id = property(lambda self: self.tokenizer.bos_id)
        eos_id = property(lambda self: self.tokenizer.eos_id)
        pad_id = property(lambda self: self.tokenizer.pad_id)
        unk_id = property(lambda self: None)
        _base_vocab_size = property(lambda self: self.tokenizer.vocab_size)

        def _encode(self, s: str) -> list[int]:
            return self.tokenizer.encode(s)

        def _decode(self, ids: Iterable[int]) -> str:
            return self.tokenizer.decode(ids)

        def _encode_tf(self, s: Any) -> Any:
            def ids(text: Any) -> np.ndarray:
                text = text.item() if isinstance(text, np.ndarray) else text  # eagerly an array, bytes in a graph
                return np.array(self.tokenizer.encode(text.decode()), np.int32)

            return tf.ensure_shape(tf.numpy_function(ids, [s], tf.int32), [None])

        def _decode_tf(self, ids: Any) -> Any:
            text = tf.numpy_function(lambda row: self.tokenizer.decode(row).encode(), [ids], tf.string)
            return tf.ensure_shape(text, [])

        def __eq__(self, other: object) -> bool:
            return isinstance(other, HfVocabulary) and other.tokenizer == self.tokenizer

        def __hash__(self) -> int:
            return hash(self.tokenizer)

    return HfVocabulary
