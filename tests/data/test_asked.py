"""Rows that ask for an improvement: a prompt, and maybe the answer to improve, in every form that people keep them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pit_jax.data.layouts import asked
from pit_jax.data.sources import read_asked
from pit_jax.data.text.row import Unusable
from pit_jax.errors import UserError
from tests.data.rows import turns, write

TEXT = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
SYSTEM = {"role": "system", "content": "be kind"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "x"}, ("x", None)),
        ({"prompt": "x", "answer": "a"}, ("x", "a")),
        ({"prompt": "x", "completion": "a"}, ("x", "a")),
        ({"prompt": "x", "answer": "a", "completion": "b", "source": 2}, ("x", "a")),
        ({"prompt": "x", "answer": None, "completion": "b"}, ("x", "b")),
        ({"prompt": "x", "answer": None, "completion": None, "messages": None}, ("x", None)),
        ({"prompt": turns("one", "two", "three")}, (TEXT, None)),
        ({"prompt": turns("one", "two", "three"), "answer": "a"}, (TEXT, "a")),
        ({"prompt": "x", "completion": [{"role": "assistant", "content": "a"}]}, ("x", "a")),
        ({"messages": turns("one", "two", "three")}, (TEXT, None)),
        ({"messages": turns("one", "two", "three", "a")}, (TEXT, "a")),
        ({"messages": [SYSTEM, *turns("q")]}, ("\n\nSystem: be kind\n\nHuman: q\n\nAssistant:", None)),
        ({"messages": turns("q", "a")}, ("q", "a")),
        ({"prompt": turns("q")}, ("q", None)),
        ({"prompt": turns("a", "b")}, ("\n\nHuman: a\n\nAssistant: b\n\nAssistant:", None)),
        ({"messages": turns("a\n\nHuman: b")}, ("a\n\nHuman: b", None)),
        ({"prompt": " é\n🙂\u2028", "answer": "<eos>\u0000 "}, (" é\n🙂\u2028", "<eos>\u0000 ")),
    ],
)
def test_what_a_row_asks(row: dict[str, Any], expected: tuple[str, str | None]) -> None:
    assert asked(row) == expected


@pytest.mark.parametrize(
    ("row", "reason", "found"),
    [
        ({}, "missing column prompt", "found none; needed prompt"),
        ({"question": "x", "answer": "a"}, "missing column prompt", "found answer, question; needed prompt"),
        ({"prompt": 3}, "prompt must be a string", "found int"),
        ({"prompt": " \n"}, "prompt is empty", "every row needs a prompt"),
        ({"prompt": []}, "the prompt must end with a message of the user or the assistant", ""),
        ({"prompt": [SYSTEM]}, "the prompt must end with a message of the user or the assistant", ""),
        ({"prompt": "\ud800"}, "prompt holds half a surrogate pair", ""),
        ({"prompt": "x", "answer": " "}, "answer is empty", "leave the column out to let the policy answer first"),
        ({"prompt": "x", "answer": 7}, "answer must be a string or a list of {role, content}", "found int"),
        ({"prompt": "x", "completion": turns("x")}, "completion must end with an assistant message", ""),
        (
            {"prompt": "x", "completion": turns("x", "a")},
            "completion holds more than the assistant's message",
            "messages",
        ),
        ({"messages": "hello"}, "messages must be a list of {role, content}", "found str"),
        ({"messages": []}, "the prompt must end with a message of the user or the assistant", ""),
        ({"messages": turns("q", "a")[1:]}, "the prompt must end with a message of the user or the assistant", ""),
        ({"messages": turns("q", " ")}, "answer is empty", ""),
        ({"messages": turns(" ")}, "prompt is empty", ""),
        ({"messages": [{"role": "bot", "content": "a"}]}, "messages has an unknown role", "system, user, assistant"),
    ],
)
def test_a_row_that_asks_nothing_says_why(row: dict[str, Any], reason: str, found: str) -> None:
    with pytest.raises(Unusable) as error:
        asked(row)
    assert error.value.reason.startswith(reason) and found in error.value.found
    assert not error.value.known


MIXED = (
    {"prompt": "one"},
    {"prompt": "two", "answer": "2"},
    {"messages": turns("q", "a")},
    {"prompt": turns("q"), "completion": "3"},
    {"prompt": json.dumps(turns("q")), "answer": json.dumps(turns("x", "y")[1:])},
)
READ = (["one", "two", "q", "q", "q"], [None, "2", "a", "3", "y"])


@pytest.mark.parametrize("name", ["asked.jsonl", "asked.jsonl.gz", "folder/part.jsonl", "folder/part.json"])
def test_rows_of_every_kind_in_one_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, *MIXED)
    assert read_asked(str(path)) == READ
    assert read_asked(str(path.parent)) == READ, "a folder of such files"


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in MIXED]
    content = b"\xef\xbb\xbf" + b"\r\n\n  \n".join(lines) + b"\n\n"
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    assert read_asked(str(tmp_path / "a.jsonl")) == read_asked(str(tmp_path / "b.jsonl.gz")) == READ


def test_columns_of_parquet(tmp_path: Path) -> None:
    """A missing answer is a null there."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "one", "answer": None}, {"prompt": "two", "answer": "2"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_asked(str(tmp_path / "a.parquet")) == (["one", "two"], [None, "2"])
    parquet.write_table(pyarrow.Table.from_pylist([*rows, {"prompt": " "}]), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"1 x prompt is empty \(first at .*a\.parquet, row 3: every row needs a prompt\)"
    ):
        read_asked(str(tmp_path / "a.parquet"))


def test_every_reason_is_named_with_its_first_line(tmp_path: Path) -> None:
    """Lines are counted as an editor does, blank ones too; nothing is left out silently."""
    path = write(tmp_path / "a.jsonl", {"prompt": "x"}, b"", {"answer": "a"}, b"[1]", b'{"prompt"', {"answer": "b"})
    with pytest.raises(UserError) as error:
        read_asked(str(path))
    message = str(error.value)
    assert message.startswith(
        f"{path}: 4 of 5 rows cannot be improved: 2 x missing column prompt (first at {path}, line 3:"
    )
    for part in (f"1 x a JSON list (first at {path}, line 4: ", f"1 x not valid JSON (first at {path}, line 5: "):
        assert part in message


@pytest.mark.parametrize("location", ["none.jsonl", "no/folder", "none.jsonl@train"])
def test_a_place_that_is_not_there(location: str) -> None:
    message = f"{location}: no such file or folder; pass rows with a `prompt`, and an `answer` to improve"
    with pytest.raises(UserError, match=message):
        read_asked(location)


def test_a_file_without_rows_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n \n")
    with pytest.raises(UserError, match=r"a\.jsonl: the file is empty; it must hold one JSON object a line"):
        read_asked(str(tmp_path / "a.jsonl"))
