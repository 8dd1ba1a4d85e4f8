"""Tokenizers behind one frozen object: trained on the data, a Hugging Face fast tokenizer, or a SentencePiece model."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from pit_jax.data.text import chat, sentencepiece
from pit_jax.data.text.backends import inside, keep_specials_out
from pit_jax.errors import UserError
from pit_jax.files import whole_folder
from pit_jax.paths import local, to_path

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx")  # what a tokenizer does not need
UNREAD = tuple(end for end in WEIGHTS if end != ".safetensors")  # weights in other formats, beside those that are read
PAD, EOS = "<pad>", "<eos>"
ANSWER, REFERENCE, IMPROVE = SEPARATORS = ("<answer>", "<reference>", "<improve>")


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to ids and back. Text that spells a special token is encoded as ordinary text, never as that token.

    A SentencePiece-like tokenizer puts a space in front of every text. Under a chat template whose answers begin on a
    new line it does not: there a text is tokenised as it is behind that line break.
    """

    backend: Any  # tokenizers.Tokenizer
    inside: Any  # `backend` for text that goes on: no space in front; `backend` itself where that puts none
    texts: Any  # which of the two encodes answers, and prompts without a chat template
    follows: Any  # which of the two encodes text behind a special token as the whole sequence would be
    chat: Any  # PreTrainedTokenizerFast if the folder brings a chat template, else None
    pad_id: int
    eos_id: int  # what ends an answer: under a chat template the token that ends the assistant's turn, if it has one
    bos_id: int | None  # only if the tokenizer itself puts a BOS in front of a text
    fingerprint: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @functools.cached_property
    def vocab_size(self) -> int:
        """The largest id and one, added tokens included: the rows that an embedding needs."""
        return _ids(self.backend)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` alone: no BOS, no EOS."""
        return list(self.texts.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel."""
        return [item.ids for item in self.texts.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_markup(self, text: str, *, begins: bool = True) -> list[int]:
        """Ids of text of our own (what a chat template writes), in which special tokens count as such.

        Text that does not begin the sequence takes no space in front of it.
        """
        ids, backend = list[int](), self.backend if begins else self.inside
        for piece in self.split_markup(text):
            if isinstance(piece, int):
                ids.append(piece)
                backend = self.follows
            else:
                ids += backend.encode(piece, add_special_tokens=False).ids
        return ids

    def split_markup(self, text: str) -> list[int | str]:
        """Text of our own as the ids of its special tokens, with the space that they take, and what is between."""
        pattern, ids = self._specials
        return [
            ids.get(piece.strip(), piece) if i % 2 else piece for i, piece in enumerate(pattern.split(text)) if piece
        ]

    @functools.cached_property
    def _specials(self) -> tuple[re.Pattern[str], dict[str, int]]:
        """(what matches a special token in markup, ids by their words)."""
        special = {i: token for i, token in self.backend.get_added_tokens_decoder().items() if token.special}
        longest = sorted(special.values(), key=lambda token: -len(token.content))
        words = (r"\s*" * t.lstrip + re.escape(t.content) + r"\s*" * t.rstrip for t in longest)
        return re.compile(f"({'|'.join(words)})"), {token.content.strip(): i for i, token in special.items()}

    @functools.cached_property
    def unknown_id(self) -> int | None:
        """What stands for a piece that the vocabulary lacks; None where it lacks none."""
        model = json.loads(self.backend.to_str())["model"]
        if model["type"] == "Unigram":
            return None if model["byte_fallback"] or model["unk_id"] is None else int(model["unk_id"])
        return self.backend.token_to_id(model["unk_token"]) if model.get("unk_token") else None

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
        if self.chat is None:  # else the template may write the EOS that the tokenizer has
            from_backend.eos_token = self.backend.id_to_token(self.eos_id)
        if self.bos_id is not None:
            from_backend.bos_token = self.backend.id_to_token(self.bos_id)
        with whole_folder(folder) as partial:
            from_backend.save_pretrained(partial)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, folder: Path) -> Tokenizer:
    """Byte-level BPE of at most `vocab_size` ids, saved in `folder`, which must not exist. Any text survives exactly.

    Raises UserError if `vocab_size` cannot hold the 256 bytes and the special tokens.
    """
    special = [PAD, EOS, *SEPARATORS]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    least = len(special) + len(alphabet)
    if vocab_size < least:
        raise UserError(f"tokenizer.vocab_size must be at least {least} (bytes and special tokens), found {vocab_size}")
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


def load_tokenizer(folder: str | Path, arguments: Sequence[str] = ()) -> Tokenizer:
    """Load the folder of a Hugging Face fast tokenizer or of a SentencePiece model; local files only, no remote code.

    A PAD token is added where it is missing or equals an EOS, our separators where they are missing. `arguments` of the
    chat template (NAME=VALUE) and the day that it shows become part of it, here and in what `save` writes.
    Raises UserError for a missing folder, missing or broken files, a tokenizer without EOS, and for arguments that its
    chat template does not read.
    """
    found = local(to_path(folder), but=WEIGHTS)
    fast = _read(found)
    if arguments and not fast.chat_template:
        raise UserError(
            f"tokenizer.template_arguments={','.join(arguments)}: {folder} has no chat template; leave it out"
        )
    _fix_template(fast, chat.arguments_of(arguments))
    return _tokenizer(fast, found)


def _fix_template(fast: Any, arguments: Mapping[str, Any]) -> None:
    """Make `arguments` and the day part of the chat template, of the default one where there are several."""
    templates = fast.chat_template
    if isinstance(templates, dict) and "default" in templates:
        fast.chat_template = {**templates, "default": chat.fixed(templates["default"], arguments)}
    elif isinstance(templates, str):
        fast.chat_template = chat.fixed(templates, arguments)


def ids_of_folder(folder: str | Path) -> int:
    """The largest id and one of what `load_tokenizer` loads, before it adds tokens. Raises UserError as it does."""
    return _ids(_read(local(to_path(folder), but=WEIGHTS)).backend_tokenizer)


def ids_of_file(folder: str | Path) -> int:
    """`ids_of_folder` without the tokens that the configuration beside tokenizer.json or *.model adds."""
    folder = local(to_path(folder), but=WEIGHTS)
    model, path = sentencepiece.model_file(folder), folder / "tokenizer.json"
    if model is not None:
        return _ids(sentencepiece.convert(model)[0])
    try:
        return _ids(tokenizers.Tokenizer.from_file(str(path)))
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UserError(f"{path}: asked for a fast tokenizer, found {error}; save one with save_pretrained") from error


def _ids(backend: tokenizers.Tokenizer) -> int:
    return int(max(backend.get_vocab(with_added_tokens=True).values())) + 1


def _read(folder: Path) -> Any:
    """The PreTrainedTokenizerFast of a folder."""
    if not folder.is_dir():
        kind = "a file" if folder.exists() else "nothing"
        raise UserError(f"tokenizer folder {folder}: found {kind}; give a folder with tokenizer.json")
    model = sentencepiece.model_file(folder)
    if model is not None:
        return _read_sentencepiece(folder, model)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            names = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
            raise UserError(
                f"tokenizer folder {folder} has no {name}; found {names}. "
                "Save a fast tokenizer with tokenizer.save_pretrained(folder), or give a SentencePiece tokenizer.model"
            )
    return _from_folder(folder, folder)


def _read_sentencepiece(folder: Path, model: Path) -> Any:
    """The model as tokenizer.json, beside what the folder says of special tokens and chat templates."""
    backend, special = sentencepiece.convert(model)
    with tempfile.TemporaryDirectory() as name:
        together, config = Path(name), Path(name) / "tokenizer_config.json"
        for pattern in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template*"):
            for path in filter(Path.is_file, folder.glob(pattern)):
                shutil.copy(path, together)
        try:
            settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
            named = {**special, **settings}
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"tokenizer folder {folder} cannot be read: {config.name}: {error}") from error
        config.write_text(json.dumps(named), encoding="utf-8")
        bos = named.get("bos_token") or ""
        bos = bos["content"] if isinstance(bos, dict) else bos
        if named.get("add_bos_token") and (number := backend.token_to_id(bos)) is not None:
            backend.post_processor = tokenizers.processors.TemplateProcessing(
                single=[bos, "$A"], special_tokens=[(bos, number)]
            )
        backend.save(str(together / "tokenizer.json"))
        return _from_folder(together, folder)


def _from_folder(folder: Path, named: Path) -> Any:
    try:
        fast = _fast_class().from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for a broken tokenizer.json
        raise UserError(f"tokenizer folder {named} cannot be read: {' '.join(str(error).split())}") from error
    fast.name_or_path = str(named)
    return fast


def _tokenizer(fast: Any, folder: Path) -> Tokenizer:
    if fast.eos_token is None:
        raise UserError(
            f"tokenizer folder {folder} names no eos_token in tokenizer_config.json; add one, models stop with it"
        )
    backend = fast.backend_tokenizer
    end = (chat.turn_end(fast) if fast.chat_template else None) or fast.eos_token
    eos_id = fast.convert_tokens_to_ids(end)
    if not backend.get_added_tokens_decoder()[eos_id].special:
        _add_special(fast, [end])  # or a text that spells it would end an answer
    if fast.chat_template:
        _make_special(fast, chat.controls(fast))  # or a text that spells one would begin a turn
    if fast.pad_token is None or fast.pad_token_id in (fast.eos_token_id, eos_id):
        name = next(name for name in (PAD, "<padding>", "<|padding|>") if name not in (fast.eos_token, end))
        fast.add_special_tokens({"pad_token": name})
    vocabulary = fast.get_vocab()
    _add_special(fast, [token for token in SEPARATORS if token not in vocabulary])
    assert fast.pad_token_id is not None and fast.pad_token_id != eos_id
    backend.no_padding()
    backend.no_truncation()
    keep_specials_out(backend)
    first = backend.encode("", add_special_tokens=True).ids[:1]
    bos_id = fast.bos_token_id if fast.bos_token_id is not None and first == [fast.bos_token_id] else None
    named = f"{fast.pad_token_id} {eos_id} {bos_id} {fast.chat_template}"
    fingerprint = hashlib.sha256((backend.to_str() + named).encode()).hexdigest()[:12]
    going_on = inside(backend)
    texts = going_on if fast.chat_template and _answers_begin_a_line(fast) else backend
    follows = _text_after_special(backend, going_on, end)
    backend.encode_special_tokens = going_on.encode_special_tokens = True
    own_chat = fast if fast.chat_template else None
    return Tokenizer(backend, going_on, texts, follows, own_chat, fast.pad_token_id, eos_id, bos_id, fingerprint)


def _add_special(fast: Any, tokens: Sequence[str]) -> None:
    if tokens:
        fast.add_tokens(
            [tokenizers.AddedToken(token, normalized=False, special=True) for token in tokens], special_tokens=True
        )


def _make_special(fast: Any, names: Set[str]) -> None:
    """Of added tokens."""
    for token in fast.added_tokens_decoder.values():
        if token.content in names and not token.special:
            kept = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized")}
            changed = tokenizers.AddedToken(token.content, special=True, **kept)
            fast.add_tokens([changed], special_tokens=True)


def _text_after_special(backend: tokenizers.Tokenizer, going_on: tokenizers.Tokenizer, special: str) -> Any:
    """Which of the two gives the ids of a text behind a special token; `backend` where neither does."""
    expected = backend.encode(special + "a b", add_special_tokens=False).ids[1:]
    found = [either.encode("a b", add_special_tokens=False).ids for either in (backend, going_on)]
    return going_on if expected == found[1] else backend


def _answers_begin_a_line(fast: Any) -> bool:
    """Whether the chat template ends in a line break before an answer, in a token that is no special one."""
    try:
        tail = chat.opening(fast)
    except chat.Refusal:
        return False
    last = fast.backend_tokenizer.encode(tail, add_special_tokens=False).ids[-1:]
    return tail.endswith("\n") and not set(last) & fast.added_tokens_decoder.keys()


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
