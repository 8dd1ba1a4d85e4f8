"""SentencePiece models as fast tokenizers, piece by piece: the same ids, from the library that everything here uses."""

import functools
import warnings
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, normalizers

from pit_jax.errors import UserError

SPACE = "▁"
_UNIGRAM, _BPE = 1, 2  # trainer_spec.model_type
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # piece.type


def model_file(folder: Path) -> Path | None:
    """The one *.model of a folder, tokenizer.model where there are several.

    None without one, and beside a tokenizer.json, which is read instead.
    """
    if (folder / "tokenizer.json").is_file():
        return None
    models = sorted(folder.glob("*.model"))
    named = [path for path in models if path.name == "tokenizer.model"]
    return (named or models)[0] if len(named or models) == 1 else None


def convert(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """(tokenizer, its special tokens by the names that transformers has for them) of a SentencePiece model.

    The same ids but for what is rare: where two ways to cut a text score the same, either may be taken; text behind a
    symbol that the user defined begins like a text; a text that spells a control symbol may be cut in another place
    (see data/backends.py); a normalisation table may join a "▁" that the text itself holds with a mark behind it.

    Raises UserError for a file that is no such model, and for a model that is neither unigram nor BPE or that marks
    the ends of words.
    """
    proto = _proto(path)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type not in (_UNIGRAM, _BPE) or trainer.treat_whitespace_as_suffix:
        raise UserError(
            f"{path}: asked for a SentencePiece model of type unigram or bpe whose words begin with a space, found "
            f"type {trainer.model_type}{', words that end with one' * trainer.treat_whitespace_as_suffix}; "
            "train another, or save a fast tokenizer"
        )
    backend = tokenizers.Tokenizer(_unigram(proto) if trainer.model_type == _UNIGRAM else _bpe(proto))
    steps: list[Any] = []
    if normalizer.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalizer.precompiled_charsmap))
    if normalizer.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(tokenizers.Regex("^ +| +$"), ""),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    if normalizer.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    ends = [decoders.Strip(" ", 1, 0)] if normalizer.add_dummy_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends])
    for number, piece in enumerate(proto.pieces):
        if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED):
            special = piece.type != _USER_DEFINED
            backend.add_tokens([tokenizers.AddedToken(piece.piece, normalized=False, special=special)])
            assert backend.token_to_id(piece.piece) == number
    names = {"unk_token": trainer.unk_id, "bos_token": trainer.bos_id, "eos_token": trainer.eos_id}
    names |= {"pad_token": trainer.pad_id}
    return backend, {name: proto.pieces[number].piece for name, number in names.items() if number >= 0}


def _unigram(proto: Any) -> Any:
    spec = proto.trainer_spec
    scores = [(piece.piece, piece.score) for piece in proto.pieces]
    return tokenizers.models.Unigram(scores, unk_id=spec.unk_id, byte_fallback=spec.byte_fallback)


def _bpe(proto: Any) -> Any:
    """SentencePiece joins the pair whose piece has the highest score; here the rank of a merge says the same."""
    vocabulary = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    merges = [
        (-score, vocabulary[piece], piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    spec = proto.trainer_spec
    return tokenizers.models.BPE(
        vocab=vocabulary,
        merges=[(left, right) for _, _, left, right in sorted(merges)],
        unk_token=spec.unk_piece,
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )


def _proto(path: Path) -> Any:
    proto = _proto_module().ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf raises an error of its own
        raise UserError(f"{path}: asked for a SentencePiece model, found {error}") from error
    if not proto.pieces:
        raise UserError(f"{path}: asked for a SentencePiece model, found one without pieces")
    return proto


@functools.cache
def _proto_module() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of the package's native types
        from sentencepiece import sentencepiece_model_pb2
    return sentencepiece_model_pb2
