import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data import notes
from pit_jax.data.sources import read_hh, read_jsonl, read_source

PAIR = {"prompt": "say hi", "chosen": "hi", "rejected": "no"}


def write(path: Path, *lines: Any) -> Path:
    """JSON objects, or raw bytes where a line is bytes; gzipped where the name says so."""
    raw = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def turns(*contents: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_strings_survive_exactly_and_other_columns_are_ignored(tmp_path: Path, name: str) -> None:
    odd = {"prompt": " é\n🙂\u2028", "chosen": "<eos>\u0000", "rejected": "b ", "margin": 2}
    assert read_jsonl(write(tmp_path / name, PAIR, b"", odd)) == [
        Triple("say hi", "hi", "no"),
        Triple(" é\n🙂\u2028", "<eos>\u0000", "b "),
    ]


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert len(read_jsonl(write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + json.dumps(PAIR).encode()))) == 1


ANSWER_A, ANSWER_B = [{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": turns("one", "two", "three"), "chosen": ANSWER_A, "rejected": ANSWER_B},
        {"prompt": turns("one", "two", "three"), "chosen": "a", "rejected": "b"},
        {"chosen": turns("one", "two", "three", "a"), "rejected": turns("one", "two", "three", "b")},
        {
            "prompt": turns("one", "two", "three"),
            "chosen": turns("one", "two", "three", "a"),
            "rejected": turns("one", "two", "three", "b"),
        },
    ],
)
def test_message_lists_become_a_transcript(tmp_path: Path, row: dict[str, Any]) -> None:
    text = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    assert read_jsonl(write(tmp_path / "a.jsonl", row)) == [Triple(text, "a", "b")]


def test_system_message_and_string_prompt_with_full_dialogues(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "be kind"}, *turns("q")]
    rows = [
        {"prompt": system, "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": turns("q", "a"), "rejected": turns("q", "b")},
    ]
    assert read_jsonl(write(tmp_path / "a.jsonl", *rows)) == [
        Triple("\n\nSystem: be kind\n\nHuman: q\n\nAssistant:", "a", "b"),
        Triple("q", "a", "b"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"prompt": "x", "chosen"', "line 2: not valid JSON .*every line must hold one JSON object"),
        (b"[" * 100_000, "line 2: not valid JSON"),
        (b'{"prompt": "\xff"}', "line 2: not valid UTF-8 .*byte 12.*save the file as UTF-8"),
        (b"[1]", "line 2: found a JSON list"),
        (
            {"question": "x", "chosen": "a", "answer": "b"},
            "missing columns prompt, rejected; found answer, chosen, question",
        ),
        ({"chosen": "a", "rejected": "b"}, "line 2: missing column prompt; found chosen, rejected"),
        ({}, "found none; needed prompt, chosen, rejected"),
        (PAIR | {"prompt": 3}, "line 2: prompt must be a string, found int"),
        (PAIR | {"chosen": None}, "line 2: chosen must be a string or a list of {role, content}, found NoneType"),
        (PAIR | {"chosen": ["a"]}, "line 2: every message of chosen needs role and content, found a"),
        (PAIR | {"chosen": [{"role": "bot", "content": "a"}]}, "unknown role 'bot'; roles are system, user, assistant"),
        (PAIR | {"chosen": [{"role": "assistant", "content": 1}]}, "content of chosen must be a string, found int"),
        (PAIR | {"chosen": turns("a")}, "line 2: chosen must end with an assistant message"),
        (PAIR | {"chosen": turns("other", "a")}, "messages of chosen before its answer differ from the prompt"),
        (PAIR | {"prompt": turns("a", "b")}, "line 2: the prompt must end with a user message"),
        (PAIR | {"prompt": turns(" ")}, "line 2: prompt is empty"),
        ({"chosen": turns("x", "a"), "rejected": turns("y", "b")}, "must share all messages but the last"),
        ({"chosen": ANSWER_A, "rejected": ANSWER_B}, "line 2: the prompt must end with a user message"),
        (PAIR | {"prompt": " \n"}, "line 2: prompt is empty"),
        (PAIR | {"chosen": ""}, "line 2: chosen is empty"),
        (PAIR | {"rejected": "\t"}, "line 2: rejected is empty"),
        (PAIR | {"rejected": " hi"}, "line 2: chosen and rejected are the same text"),
        (b'{"prompt": "\\ud800", "chosen": "a", "rejected": "b"}', "line 2: prompt holds half a surrogate pair"),
    ],
)
def test_bad_line_names_file_line_and_cause(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIR, line)
    with pytest.raises(ValueError, match=message) as error:
        read_jsonl(path)
    assert "pairs.jsonl, line 2: " in str(error.value)


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.jsonl: no such file"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_jsonl(tmp_path)
    for content in (b"", b"\n \n"):
        (tmp_path / "empty.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=r"empty\.jsonl: the file is empty"):
            read_jsonl(tmp_path / "empty.jsonl")
    for content in (b"plain", gzip.compress(b"x" * 1000)[:20]):
        (tmp_path / "broken.jsonl.gz").write_bytes(content)
        with pytest.raises(ValueError, match=r"broken\.jsonl\.gz: not a complete gzip file"):
            read_jsonl(tmp_path / "broken.jsonl.gz")


def test_transcripts_split_at_the_last_assistant_turn(tmp_path: Path) -> None:
    start = "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:"
    path = write(
        tmp_path / "hh.jsonl",
        {"chosen": start + " yes", "rejected": start + " no\n"},
        {"chosen": start + " yes", "rejected": start + " yes "},
        {"chosen": start + " yes", "rejected": start},
        {"chosen": start + " a", "rejected": start + " a\n\nHuman: b\n\nAssistant: c"},
        {"chosen": "no turns", "rejected": "at all"},
    )
    assert read_hh(path) == [Triple(start, "yes", "no")]
    triples, drops = read_source(f"hh:{path}", DataConfig())
    assert len(triples) == 1
    assert drops == {
        "chosen equals rejected": 1,
        "empty answer": 1,
        "dialogues differ before the last assistant turn": 1,
        "no prompt before the last assistant turn": 1,
    }


def test_transcript_columns_must_be_strings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: chosen must be a string, found list"):
        read_hh(write(tmp_path / "a.jsonl", {"chosen": [], "rejected": ""}))
    with pytest.raises(ValueError, match="missing column rejected; found chosen, prompt"):
        read_hh(write(tmp_path / "a.jsonl", {"chosen": "", "prompt": ""}))


def test_real_transcripts(repository: Path) -> None:
    path = repository.parent / "shared" / "data" / "hh_rlhf_harmless_slice.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the HH-RLHF slice is not at {path}")
    triples, drops = read_source(f"hh:{path}", DataConfig())
    assert len(triples) == 1495
    assert drops == {"empty answer": 4, "dialogues differ before the last assistant turn": 1}
    assert all(t.prompt.endswith("\n\nAssistant:") and t.prompt.startswith("\n\nHuman:") for t in triples)
    assert sum(t.prompt.count("\n\nHuman:") > 1 for t in triples) > 700


def test_source_specs(tmp_path: Path) -> None:
    assert read_source("notes", DataConfig(notes_pairs=5, notes_seed=3))[0] == notes.pairs(5, 3)
    assert read_source(f"jsonl:{write(tmp_path / 'a.jsonl', PAIR)}", DataConfig())[0] == [Triple("say hi", "hi", "no")]
    for spec, message in {
        "json:a.jsonl": "unknown kind 'json'; did you mean 'jsonl'",
        "note": "did you mean 'notes'",
        "pairs.jsonl": "did you mean 'jsonl'.*jsonl:PATH",
        "jsonl:": "names no file; write 'jsonl:PATH'",
        "notes:x": "takes no path",
    }.items():
        with pytest.raises(ValueError, match=message):
            read_source(spec, DataConfig())
