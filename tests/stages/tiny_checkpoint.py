"""A Llama of a few thousand weights in a folder, as `save_pretrained` leaves one: what --base takes."""

from pathlib import Path

import jax
import numpy as np
import tokenizers
import transformers

from pit_jax.model import weights
from pit_jax.model.families import FAMILIES, architecture
from pit_jax.model.networks import LanguageModel

PADDING_ROWS = 2  # of the embedding, beyond the tokenizer's ids


def write(folder: Path, *, tied: bool = False) -> Path:
    """Write config, weights and a tokenizer of bytes with an EOS and no PAD; returns the folder."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["write a kind note to anna about the club"] * 3, trainer)
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    transformers.LlamaConfig(
        vocab_size=backend.get_vocab_size() + PADDING_ROWS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    ).save_pretrained(folder)
    found = architecture(transformers.AutoConfig.from_pretrained(folder).to_dict())
    params = LanguageModel(found, found.vocab_rows).init(jax.random.key(7))
    weights.save(folder, params, FAMILIES["llama"].entries(found), dtype=np.float32)
    return folder
