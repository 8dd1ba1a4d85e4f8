"""Tokenizers: one trained on the data, or any Hugging Face fast tokenizer folder, behind one small frozen object."""

import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

if TYPE_CHECKING:
    import seqio

PAD, EOS = "<pad>", "<eos>"
ANSWER, REFERENCE, IMPROVE = SEPARATORS = ("<answer>", "<reference>", "<improve>")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to ids and back. Text that spells a special token is encoded as ordinary text, never as that token."""

    backend: Any  # tokenizers.Tokenizer
    chat: Any  # PreTrainedTokenizerFast if the folder brings a chat template, else None
    pad_id: int
    eos_id: int
    bos_id: int | None  # only if the tokenizer itself puts a BOS in front of a text
    fingerprint: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no BOS, no EOS."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return [item.ids for item in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_markup(self, text: str) -> list[int]:
        """Ids of text of our own (a chat template's frame), in which special tokens count as such."""
        self.backend.encode_special_tokens = False
        try:
            return self.encode(text)
        finally:
            self.backend.encode_special_tokens = True

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS, special tokens left out.

        Exact for tokenizers trained here; a SentencePiece-like folder may lose one leading space, as it does anywhere.
        """
        kept = [int(i) for i in ids]
        if self.eos_id in kept:
            kept = kept[: kept.index(self.eos_id)]
        return str(self.backend.decode(kept, skip_special_tokens=True))

    def id_of(self, token: str) -> int:
        """Id of a token that is known to exist."""
        number = self.backend.token_to_id(token)
        assert number is not None, f"no token {token!r}"
        return int(number)

    def save(self, folder: Path) -> None:
        """Write a Hugging Face fast tokenizer folder (tokenizer.json, tokenizer_config.json), atomically."""
        from_backend = self.chat if self.chat is not None else _fast(tokenizer_object=self.backend)
        from_backend.pad_token = self.backend.id_to_token(self.pad_id)
        from_backend.eos_token = self.backend.id_to_token(self.eos_id)
        if self.bos_id is not None:
            from_backend.bos_token = self.backend.id_to_token(self.bos_id)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            from_backend.save_pretrained(partial)
            partial.chmod(0o755)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, folder: Path) -> Tokenizer:
    """Byte-level BPE of at most `vocab_size` ids, saved in `folder`, which must not exist. Any text survives exactly.

    Raises ValueError if `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    special = [PAD, EOS, *SEPARATORS]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    least = len(special) + len(alphabet)
    if vocab_size < least:
        raise ValueError(
            f"tokenizer.vocab_size must be at least {least} (bytes and special tokens), found {vocab_size}"
        )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    fast = _fast(tokenizer_object=backend, pad_token=PAD, eos_token=EOS)
    _tokenizer(fast, Path(folder)).save(Path(folder))
    return load_tokenizer(folder)


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Load a Hugging Face fast tokenizer folder; local files only, no remote code.

    A PAD token is added where it is missing or equals EOS, our separators where they are missing.
    Raises ValueError for a missing folder, missing or broken files, and a tokenizer without EOS.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ValueError(f"tokenizer folder {folder}: found {found}; give a folder with tokenizer.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            names = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
            raise ValueError(
                f"tokenizer folder {folder} has no {name}; found {names}. "
                "Save a fast tokenizer with tokenizer.save_pretrained(folder)"
            )
    try:
        fast = _fast_class().from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for a broken tokenizer.json
        raise ValueError(f"tokenizer folder {folder} cannot be read: {error}") from error
    return _tokenizer(fast, folder)


def _tokenizer(fast: Any, folder: Path) -> Tokenizer:
    if fast.eos_token is None:
        raise ValueError(
            f"tokenizer folder {folder} names no eos_token in tokenizer_config.json; add one, models stop with it"
        )
    if fast.pad_token is None or fast.pad_token_id == fast.eos_token_id:
        fast.add_special_tokens({"pad_token": PAD if fast.eos_token != PAD else "<padding>"})
    vocabulary = fast.get_vocab()
    missing = [token for token in SEPARATORS if token not in vocabulary]
    if missing:
        added = [tokenizers.AddedToken(token, normalized=False, special=True) for token in missing]
        fast.add_tokens(added, special_tokens=True)
    assert fast.pad_token_id is not None and fast.pad_token_id != fast.eos_token_id
    backend = fast.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    first = backend.encode("", add_special_tokens=True).ids[:1]
    bos_id = fast.bos_token_id if fast.bos_token_id is not None and first == [fast.bos_token_id] else None
    named = f"{fast.pad_token_id} {fast.eos_token_id} {bos_id} {fast.chat_template}"
    fingerprint = hashlib.sha256((backend.to_str() + named).encode()).hexdigest()[:12]
    backend.encode_special_tokens = True
    return Tokenizer(
        backend, fast if fast.chat_template else None, fast.pad_token_id, fast.eos_token_id, bos_id, fingerprint
    )


def _fast(**named: Any) -> Any:
    return _fast_class()(**named)


@functools.cache
def _fast_class() -> Any:
    with without_advice():
        from transformers import PreTrainedTokenizerFast
    return PreTrainedTokenizerFast


@contextlib.contextmanager
def without_advice() -> Iterator[None]:
    """Keeps transformers, imported inside, from printing its advice where torch is absent."""
    switch = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(switch)
    os.environ[switch] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[switch]
        else:
            os.environ[switch] = before


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
