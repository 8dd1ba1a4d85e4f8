"""Small tokenizers of four kinds, in folders with the chat template and the special tokens of a family."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.data.text.published_templates import Published

TEXTS = [
    "user assistant system model You are a helpful assistant. Here is a reference answer: Write a better answer.",
    "What is a kind way to say no?  Thank you, but I can't.\n\nIt depends on whom you ask: a friend, or a stranger?",
    "[INST] [/INST] <|user|> <|assistant|> <|system|>",
] * 9
KINDS = ("bytes", "joined", "words", "pieces")
JOINED = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # as Llama 3 cuts


def backend_of(kind: str, special: tuple[str, ...]) -> tokenizers.Tokenizer:
    """bytes: as GPT-2. joined: as Llama 3, where a line break joins what it follows. pieces, words: as Llama 2, BPE
    with a space in front of every part of a text, or of its first part alone."""
    of_bytes = kind in ("bytes", "joined")
    alphabet = pre_tokenizers.ByteLevel.alphabet() if of_bytes else [f"<0x{i:02X}>" for i in range(256)]
    backend = tokenizers.Tokenizer(models.BPE(unk_token=None, byte_fallback=not of_bytes))
    if of_bytes:
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "bytes")
        cut = pre_tokenizers.Split(tokenizers.Regex(JOINED), "isolated")
        backend.pre_tokenizer = whole if kind == "bytes" else pre_tokenizers.Sequence([cut, whole])
        backend.decoder = decoders.ByteLevel()
    else:
        if kind == "pieces":
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
        last = decoders.Strip(" ", 1, 0)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), last]
        )
    settings: dict[str, Any] = {"initial_alphabet": alphabet} if of_bytes else {}
    trained = [*special, *([] if of_bytes else alphabet)]
    if not of_bytes:  # pieces do not run over spaces, as SentencePiece trains them
        rest, backend.pre_tokenizer = backend.pre_tokenizer, pre_tokenizers.Metaspace("▁", prepend_scheme="first")
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=900, special_tokens=trained, show_progress=False, **settings)
    )
    if of_bytes:
        return backend
    spec = json.loads(backend.to_str())
    spec["pre_tokenizer"] = rest and json.loads(rest.__getstate__())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in special]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def written(folder: Path, kind: str, found: Published, **changes: Any) -> Path:
    """The folder of a tokenizer with the template and the special tokens of a family."""
    from transformers import PreTrainedTokenizerFast

    backend = backend_of(kind, found.special)
    if found.adds_bos:
        assert found.bos is not None
        bos = (str(found.bos), backend.token_to_id(found.bos))
        backend.post_processor = processors.TemplateProcessing(single=f"{found.bos} $A", special_tokens=[bos])
    names = {"eos_token": found.eos} | ({"bos_token": found.bos} if found.bos else {})
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, **(names | changes))
    fast.chat_template = found.template
    fast.save_pretrained(folder)
    return folder
