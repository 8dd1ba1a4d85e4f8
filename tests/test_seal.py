"""Every altered file of a finished folder is named, before anything reads it."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from benchmarks.damage import ALTERATIONS, GARBAGE, NAMED, soak
from pit_jax.errors import UserError
from pit_jax.paths import DONE
from pit_jax.seal import check_file, check_files, read_seal, seal

FACTS = {"inputs": {"version": 4, "data.rates": [1.0, 0.1]}, "starts": [0, 9], "said": "ß\u2028"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder like one of prepared data."""
    rng = np.random.default_rng(0)
    for name in ("tokens", "texts", "sft", "heldout"):
        rng.integers(1, 500, 999).astype(np.uint16).tofile(tmp_path / f"{name}.bin")
    np.arange(100).tofile(tmp_path / "tokens.offsets")
    (tmp_path / "tokenizer").mkdir()
    for name in ("report.json", "tokenizer/tokenizer.json"):
        (tmp_path / name).write_text(json.dumps({"kept": 12, "lengths": [3, 4.5]}, indent=1))
    seal(tmp_path, FACTS)
    return tmp_path


def opened(folder: Path) -> None:
    facts = read_seal(folder)
    assert facts is not None, f"{folder / DONE} is not there"
    check_files(folder, facts)


def test_a_seal_says_what_was_put_into_it(folder: Path, tmp_path: Path) -> None:
    facts = read_seal(folder)
    assert facts is not None and {name: facts[name] for name in FACTS} == FACTS
    assert check_files(folder, facts) == folder
    assert check_file(folder, "report.json", facts) == folder / "report.json"
    (folder / "another").write_text("what nothing reads")
    opened(folder)
    assert read_seal(folder / "tokenizer") is None


def test_every_kind_of_alteration_is_named(folder: Path) -> None:
    """The same as benchmarks/damage.py does to real data, a few of each."""

    def named() -> None:
        if not (folder / DONE).exists():
            raise UserError(f"{folder / DONE} is not there")  # as the caller of read_seal says
        opened(folder)

    ends = soak(folder, named, 3 * len(ALTERATIONS), random.Random(0))
    assert ends == dict.fromkeys([(kind, NAMED) for kind in ALTERATIONS], 3)
    opened(folder)


@pytest.mark.parametrize("content", [*GARBAGE, b"", b"0", b"NaN", b'{"files": 1, "this file": "x"}'])
def test_a_marker_of_another_shape_is_one_sentence(folder: Path, content: bytes) -> None:
    (folder / DONE).write_bytes(content)
    with pytest.raises(UserError, match=r"done\.json: asked for the file that was written .*; put it back, or delete"):
        read_seal(folder)


def test_the_marker_is_told_from_itself_with_one_byte_more(folder: Path) -> None:
    whole = (folder / DONE).read_text()
    for other in (whole.removesuffix("\n"), whole + " ", whole.replace("0.1", "0.10"), whole.replace("\\u00df", "ß")):
        (folder / DONE).write_text(other)
        with pytest.raises(UserError, match=r"done\.json: .* found another one; put it back"):
            read_seal(folder)


def test_what_cannot_be_read_is_said(folder: Path) -> None:
    facts = read_seal(folder)
    assert facts is not None
    (folder / "sft.bin").unlink()
    with pytest.raises(UserError, match=r"sft\.bin: .* found none that can be read \(No such file or directory\);"):
        check_files(folder, facts)
    (folder / "sft.bin").mkdir()
    with pytest.raises(UserError, match=r"sft\.bin: .* found none that can be read \(Is a directory\); put it back"):
        check_file(folder, "sft.bin", facts)
