"""SentencePiece models that the tests train: as the library does by default, as Llama's, as Gemma's."""

import warnings
from pathlib import Path
from typing import Any

from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.world import pairs

IDENTITY: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {"pad_id": -1, "hard_vocab_limit": False},
    "as Llama": {**IDENTITY, "byte_fallback": True, "split_digits": True, "pad_id": -1},
    "as Gemma": {**IDENTITY, "byte_fallback": True, "add_dummy_prefix": False, "pad_id": 3},
}


def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sentencepiece
    return sentencepiece


def train(folder: Path, **settings: Any) -> Path:
    """A folder with nothing but tokenizer.model."""
    folder.mkdir(exist_ok=True)
    texts = [text for pair in pairs(NOTES, 300, 0) for text in (pair.prompt, pair.chosen)]
    (folder / "texts").write_text("\n".join(texts))
    library().SentencePieceTrainer.train(
        **{"vocab_size": 400, **settings},
        input=str(folder / "texts"),
        model_prefix=str(folder / "tokenizer"),
        minloglevel=2,
    )
    for name in ("texts", "tokenizer.vocab"):
        (folder / name).unlink()
    return folder
