"""Tokenizers trained here and brought along: any text survives, and none becomes a special token."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pit_jax.data.text.tokenizers import SEPARATORS, Tokenizer, load_tokenizer, train_tokenizer
from pit_jax.errors import UserError

TEXTS = ["write a kind note to anna about the book club", "hello anna, see you at noon. bye"] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "deep" / "tokenizer"
    train_tokenizer(TEXTS, vocab_size=300, folder=path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def edit(folder: Path, target: Path, **changes: object) -> Path:
    """A copy of a tokenizer folder with other entries in tokenizer_config.json; None removes one."""
    target.mkdir()
    (target / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    config = json.loads((folder / "tokenizer_config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (target / "tokenizer_config.json").write_text(json.dumps(kept))
    return target


@given(st.text())
def test_any_text_survives_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.encode_batch([text, "x"]) == [ids, tokenizer.encode("x")]


@pytest.mark.parametrize(
    "text", ["🙂 naïve\n\n\ttabs  two", " leading", "trailing ", "", "\u0000", "<eos><answer> <pad>"]
)
def test_named_texts_survive_and_never_become_special(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    special = {tokenizer.pad_id, tokenizer.eos_id, *(tokenizer.id_of(token) for token in SEPARATORS)}
    assert not special & set(ids)


def test_decode_stops_at_eos_and_skips_special_tokens(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.id_of("<answer>"), *tokenizer.encode("hello"), tokenizer.eos_id, *tokenizer.encode("junk")]
    assert tokenizer.decode(ids) == "hello"


def test_training_is_repeatable_and_learns_words(tmp_path: Path, tokenizer: Tokenizer) -> None:
    again = train_tokenizer(TEXTS, vocab_size=300, folder=tmp_path / "again")
    assert again == tokenizer and hash(again) == hash(tokenizer)
    assert again.vocab_size <= 300
    assert len(again.encode("write a note")) < len("write a note") // 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again"]
    other = train_tokenizer(["something else entirely"] * 9, vocab_size=300, folder=tmp_path / "other")
    assert other != tokenizer


def test_five_special_ids_are_distinct_and_saved(folder: Path, tokenizer: Tokenizer) -> None:
    ids = {tokenizer.pad_id, tokenizer.eos_id, *(tokenizer.id_of(token) for token in SEPARATORS)}
    assert len(ids) == 5 and tokenizer.bos_id is None
    assert {"tokenizer.json", "tokenizer_config.json"} <= {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("pad", [None, "<eos>"])
def test_pad_that_is_missing_or_eos_is_replaced(tmp_path: Path, folder: Path, pad: str | None) -> None:
    path = tmp_path / "tokenizer"
    loaded = load_tokenizer(edit(folder, path, pad_token=pad))
    assert loaded.pad_id != loaded.eos_id
    loaded.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").pad_id == loaded.pad_id


def test_foreign_folder_gets_separators_pad_and_keeps_its_bos(tmp_path: Path) -> None:
    import tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2, "hi": 3}, "<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.enable_truncation(2)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", bos_token="<s>", unk_token="<unk>", pad_token="</s>"
    )
    fast.save_pretrained(tmp_path / "foreign")
    loaded = load_tokenizer(tmp_path / "foreign")
    assert (loaded.bos_id, loaded.eos_id) == (1, 2)
    assert loaded.vocab_size == 8 and loaded.pad_id >= 4
    assert loaded.encode("hi hi hi") == [3, 3, 3]
    loaded.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert (again.bos_id, again.pad_id, again.vocab_size) == (1, loaded.pad_id, 8)


def test_unusable_folders(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="found nothing; give a folder with tokenizer.json"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(UserError, match="found a file"):
        load_tokenizer(folder / "tokenizer.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no tokenizer.json; found config.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="names no eos_token"):
        load_tokenizer(edit(folder, tmp_path / "no_eos", eos_token=None))
    broken = edit(folder, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_tokenizer(broken)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        wrong = edit(folder, tmp_path / f"wrong {name}")
        (wrong / name).write_text("[3]")
        with pytest.raises(UserError, match="cannot be read"):
            load_tokenizer(wrong)
    with pytest.raises(UserError, match="vocab_size must be at least 261 .*, found 100"):
        train_tokenizer(TEXTS, vocab_size=100, folder=tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_loading_is_quiet_and_needs_no_tensorflow(folder: Path) -> None:
    code = (
        "import sys, os; before = dict(os.environ)\n"
        "import pit_jax.data.text.templates, pit_jax.data.tasks, pit_jax.data.store\n"
        f"pit_jax.data.text.tokenizers.load_tokenizer({str(folder)!r})\n"
        "assert dict(os.environ) == before\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
