"""Which fold a prompt belongs to: a pure function of its text, so no prompt crosses folds and rows can be added."""

import hashlib
import unicodedata

from pit_jax.errors import UserError

TRAINING_FOLDS = ("sft", "rm", "rl")
FOLDS = (*TRAINING_FOLDS, "heldout")
PAIR_FOLDS = {"fold": ("rm",), "all": ("rm", "sft", "rl")}  # of the models that score, by --rm.pairs


def point_of(prompt: str, salt: str = "") -> float:
    """A place of `prompt` in [0, 1), which depends on its text alone; with another salt it is another one.

    It is a hash, sha256, of the salt and of the NFC-normalised, stripped prompt.
    """
    text = unicodedata.normalize("NFC", prompt).strip()
    digest = hashlib.sha256((salt + text).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: exact in a float and below 1


def fold_of(prompt: str, heldout_fraction: float) -> str:
    """Fold of `prompt`: a place in [0, 1) below `heldout_fraction` is held out, the rest is cut into three equal parts.

    Raises UserError if the fraction is not in [0, 1].
    """
    if not 0.0 <= heldout_fraction <= 1.0:
        raise UserError(f"heldout_fraction must lie in [0, 1], found {heldout_fraction}")
    point = point_of(prompt)
    if point < heldout_fraction:
        return "heldout"
    third = int((point - heldout_fraction) / (1.0 - heldout_fraction) * len(TRAINING_FOLDS))
    return TRAINING_FOLDS[min(third, len(TRAINING_FOLDS) - 1)]
