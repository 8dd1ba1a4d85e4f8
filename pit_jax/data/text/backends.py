"""Changes inside a fast tokenizer: what its texts must never become, and the space it puts in front of them."""

import json
import re
from typing import Any

import tokenizers

_OWN = "PITJAXOWN"  # names the group of the pattern below, by which it is known again


def keep_specials_out(backend: tokenizers.Tokenizer) -> None:
    """Make a unigram model cut a text that spells a special token or a byte's piece behind its first character.

    Such pieces stand among its words, so that it would take them; BPE cannot reach them. Nothing is done twice.
    """
    if not isinstance(backend.model, tokenizers.models.Unigram):
        return
    before = backend.pre_tokenizer
    if before is not None and _OWN in before.__getstate__().decode():
        return
    special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    spelled = [f"{re.escape(word[0])}(?={re.escape(word[1:])})" for word in special if len(word) > 1]
    pattern = tokenizers.Regex(f"(?<{_OWN}>{'|'.join([*spelled, '<(?=0x[0-9A-F]{2}>)'])})")
    cut = tokenizers.pre_tokenizers.Split(pattern, "isolated")
    backend.pre_tokenizer = cut if before is None else tokenizers.pre_tokenizers.Sequence([before, cut])


def inside(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """`backend` for a text that goes on: without the space that it puts in front of one. Itself where it puts none."""
    spec = json.loads(backend.to_str())
    changed = [_without_prefix(spec[part]) for part in ("normalizer", "pre_tokenizer")]
    if changed == [spec["normalizer"], spec["pre_tokenizer"]]:
        return backend
    spec["normalizer"], spec["pre_tokenizer"] = changed
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def _without_prefix(step: Any) -> Any:
    """A normalizer or pre-tokenizer, as JSON, that puts no space in front of a text."""
    if step is None:
        return None
    for members in ("normalizers", "pretokenizers"):
        if members in step:
            kept = [_without_prefix(member) for member in step[members]]
            return {**step, members: [member for member in kept if member is not None]}
    if step["type"] == "Prepend":
        return None
    if step["type"] == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    return {**step, "add_prefix_space": False} if step.get("add_prefix_space") else step
