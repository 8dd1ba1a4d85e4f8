"""Files are whole or not there, whatever happens while they are written."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest

from pit_jax import files
from pit_jax.errors import UserError, did_you_mean


@pytest.mark.parametrize(
    ("write", "old", "new"),
    [
        (files.write_json, {"a": 1}, {"a": 2}),
        (files.write_jsonl, [{"a": 1}], [{"a": 2}]),
        (files.write_text, "one", "two"),
    ],
)
def test_files_appear_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None], old: Any, new: Any
) -> None:
    """A reader, or a killed writer, leaves the old file as it was until the new one is complete."""
    path = tmp_path / "file"
    write(path, old)
    before = path.read_text()
    seen: list[str] = []

    def killed(source: Any, target: Any) -> None:
        seen.append(path.read_text())
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(path, new)
    assert seen == [before] and path.read_text() == before
    monkeypatch.undo()
    write(path, new)
    assert path.read_text() != before and os.listdir(tmp_path) == ["file"]


def test_what_is_renamed_was_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, move = os.fsync, os.replace

    def noted_sync(handle: int) -> None:
        done.append("sync")
        sync(handle)

    def noted_move(source: Any, target: Any) -> None:
        done.append("move")
        move(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_move)
    files.write_text(tmp_path / "file", "text")
    assert done == ["sync", "move", "sync"], "the content before the rename, the folder behind it"


def test_json_that_cannot_be_written_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_jsonl_is_one_object_a_line_with_text_as_it_is(tmp_path: Path) -> None:
    files.write_jsonl(tmp_path / "rows", [{"text": "a\nb"}, {"text": "grüße"}])
    files.append_jsonl(tmp_path / "rows", [{"text": "\u2028"}, {}])
    lines = (tmp_path / "rows").read_text(encoding="utf-8").split("\n")
    assert lines == ['{"text": "a\\nb"}', '{"text": "grüße"}', '{"text": "\u2028"}', "{}", ""]
    assert files.read_jsonl(tmp_path / "rows")[2] == {"text": "\u2028"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    asked = [
        lambda: files.write_text(tmp_path / "a", ""),
        lambda: files.append_jsonl(tmp_path / "a", []),
        lambda: files.check_writable(tmp_path / "folder" / "a"),
    ]
    for write in asked:
        with pytest.raises(UserError, match=rf"cannot write .*/a: {os.strerror(code)}; free space there") as caught:
            write()
        assert isinstance(caught.value.__cause__, OSError)


def test_a_folder_appears_whole_and_takes_the_place_of_another(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with files.whole_folder(target) as partial:
            (partial / name).write_text(name)
            assert not (target / name).exists()
        assert [path.name for path in target.iterdir()] == [name]
    with pytest.raises(KeyboardInterrupt), files.whole_folder(target) as partial:
        (partial / "third").write_text("")
        raise KeyboardInterrupt
    assert [path.name for path in target.iterdir()] == ["second"] and os.listdir(tmp_path) == ["folder"]


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Whether or not the next one bears its number; not what a living process, or another machine, is filling."""
    code = "from pathlib import Path; from pit_jax.files import whole_folder, os\n"
    fill = f"with whole_folder(Path({str(tmp_path / 'data')!r})) as partial: os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", code + fill], check=False)
    (left,) = tmp_path.iterdir()
    assert killed.returncode == -signal.SIGKILL and left.name.startswith(".data-")
    number, host, end = left.name.removeprefix(".data-").split("@")
    reused = left.with_name(f".data-{os.getpid()}@{host}@{end}")
    kept = [f".data-{os.getppid()}@{host}@{end}", f".data-{number}@{host}-2@{end}", f".data2-{number}@{host}@{end}"]
    for path in (reused, *(tmp_path / name for name in kept)):
        (path / "below").mkdir(parents=True)
    with files.whole_folder(tmp_path / "data") as outer, files.whole_folder(tmp_path / "data"):
        assert outer.is_dir(), "nor what this process is filling itself"
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "data"])


def test_absent_files_are_empty(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "a.json") is None
    assert files.read_jsonl(tmp_path / "a.jsonl") == []


def test_a_line_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a"')
    assert files.read_jsonl(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("bad", ['{"a"', "[1]", ""])
def test_a_garbled_line_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n{bad}\n{{"a": 3}}\n')
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: asked for a JSON object, found"):
        files.read_jsonl(path)


def test_a_garbled_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(UserError, match=r"a\.json: asked for JSON"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "asked for JSON, found"),
        ('{"round": 3, "dig', "asked for JSON, found"),
        ("\udcff\udcfe", "asked for JSON, found"),
        ("[" * 100_000, "asked for JSON, found"),
        ("[1]", "asked for what a stage writes, found Expected `object`, got `array`"),
        ('{"round": "3"}', r"asked for what a stage writes, found Expected `int`, got `str` - at `\$.round`"),
        ("{}", "asked for what a stage writes, found Object missing required field `round`"),
    ],
)
def test_a_file_of_another_form_is_named_with_its_cure(tmp_path: Path, text: str, found: str) -> None:
    class Asked(TypedDict):
        round: int

    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=rf"{path}: {found}.*; do this") as error:
        files.read_json(path, Asked, cure="do this")
    assert "\n" not in str(error.value)
    path.write_text('{"round": 3, "more": [1]}')
    assert files.read_json(path, Asked) == {"round": 3, "more": [1]}


@pytest.mark.parametrize(
    "bad", ['{"step": "1", "phase": "train"}', '{"step": 1, "phase": "train", "time": "1"}', '{"step": 1}']
)
def test_a_row_that_is_none_of_a_training_is_named(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1, "phase": "eval", "time": 1.0, "loss": 2.0}}\n{bad}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: asked for .*; mend or remove it"):
        files.read_metrics(path)


def test_a_digest_tells_parts_apart() -> None:
    assert len(files.digest_of("a")) == 12
    assert len({files.digest_of("ab", "c"), files.digest_of("a", "bc"), files.digest_of("abc")}) == 3
    assert files.digest_of("a") == files.digest_of(b"a")


def test_the_nearest_name_is_offered() -> None:
    assert did_you_mean("improv", ["improve", "evaluate"]) == "; did you mean improve?"
    assert did_you_mean("zzz", ["improve"]) == ""
