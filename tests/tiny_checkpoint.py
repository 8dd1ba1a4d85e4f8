"""A Llama of a few thousand weights in a folder, as `save_pretrained` leaves one: what --base takes."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tokenizers
import transformers

from pit_jax.model.networks import LanguageModel
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import FAMILIES, architecture

PADDING_ROWS = 2  # of the embedding, beyond the tokenizer's ids


def write(
    folder: Path,
    *,
    tied: bool = False,
    chat: str = "",
    special: Sequence[str] = (),
    texts: Sequence[str] = ("write a kind note to anna about the club",) * 3,
    vocab_size: int = 300,
) -> Path:
    """Write config, weights and a tokenizer of bytes with an EOS and no PAD; returns the folder.

    `chat` is its chat template, with the tokens `special`; `texts` are what the tokenizer is trained on.
    """
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["</s>", *special],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    fast.chat_template = chat or None
    fast.save_pretrained(folder)
    return write_model(folder, backend.get_vocab_size(), tied=tied)


def write_model(folder: Path, ids: int, *, tied: bool = False, seed: int = 7) -> Path:
    """Write config and weights beside a tokenizer with so many ids; returns the folder."""
    transformers.LlamaConfig(
        vocab_size=ids + PADDING_ROWS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    ).save_pretrained(folder)
    found = architecture(transformers.AutoConfig.from_pretrained(folder).to_dict())
    params = LanguageModel(found, found.vocab_rows).init(jax.random.key(seed))
    weights.save(folder, params, FAMILIES["llama"].entries(found), dtype=np.float32)
    return folder
