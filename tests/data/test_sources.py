"""Specs of sources, and what is left out of one."""

import json
import time
import tracemalloc
from pathlib import Path

import pytest

from pit_jax.batch import Triple
from pit_jax.config import DataConfig
from pit_jax.data import notes
from pit_jax.data.layouts import LAYOUTS, Layout
from pit_jax.data.sources import (
    SHIPPED,
    known_flaws,
    known_truth,
    largest_truth,
    read_source,
    source_code,
    source_files,
    source_identity,
)
from pit_jax.errors import UserError
from pit_jax.table import forget, source_of
from tests.data.rows import PAIR, turns, write

DATA = DataConfig()


def test_real_transcripts(repository: Path) -> None:
    path = repository.parent / "shared" / "data" / "hh_rlhf_harmless_slice.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the HH-RLHF slice is not at {path}")
    reading = read_source(f"hh:{path}", DATA)
    triples = reading.triples
    assert len(triples) == 1495
    assert reading.drops == {"empty answer": 4, "dialogues differ before the last assistant turn": 1}
    assert reading.first.keys() == reading.drops.keys() and reading.bad == 0
    assert all(t.prompt.endswith("\n\nAssistant:") and t.prompt.startswith("\n\nHuman:") for t in triples)
    assert sum(t.prompt.count("\n\nHuman:") > 1 for t in triples) > 700


def test_source_specs(tmp_path: Path) -> None:
    assert read_source("notes", DataConfig(notes_pairs=5, notes_seed=3)).triples == notes.pairs(5, 3)
    path = write(tmp_path / "a.jsonl", PAIR)
    for layout in ("jsonl", "pairs", "synthetic_instruct"):
        assert read_source(f"{layout}:{path}", DATA).triples == [Triple("say hi", "hi", "no")]
        assert source_files(f"{layout}:{path}") == [path]
        assert source_identity(f"{layout}:{path}") == f"{layout}:", "its files say the rest"
    assert source_files("notes") == source_files("hh:helpful") == source_files("pairs:tfds/mine") == []
    assert [source_identity(spec) for spec in ("notes", "pairs:tfds/mine")] == ["notes", "pairs:tfds/mine"]
    assert source_identity("hh:harmless") == source_identity("hh:harmless-base") != source_identity("hh:helpful")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("json:a.jsonl", "unknown layout 'json'; did you mean 'jsonl'"),
        ("note", "did you mean 'notes'"),
        ("pairs.jsonl", "did you mean 'pairs'.*LAYOUT:LOCATION"),
        ("pairs:", "names no file; write 'pairs:PATH'$"),
        ("tldr:", "write 'tldr:PATH', or take what the hub has: tldr:hub"),
        ("notes:x", "x: no such file or folder"),
        ("pairs:none.jsonl", r"none\.jsonl: no such file or folder; check the path$"),
        ("hh:harmles-base", "or take what the hub has: hh:helpful, hh:harmless, .*hh:harmless-base"),
    ],
)
def test_bad_specs(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_source(spec, DATA)


@pytest.mark.parametrize(("layout", "name"), SHIPPED)
def test_shipped_names_say_what_to_download_where_there_is_no_hub(layout: str, name: str) -> None:
    """The tests run offline."""
    with pytest.raises(UserError, match=rf"run `hf download \S+/\S+ .*pass {layout}:downloads/\S+@test$") as error:
        read_source(f"{layout}:{name}@test", DATA)
    assert str(error.value).count("--include") == len(SHIPPED[layout, name])


def test_several_tranches_are_downloaded_as_one_folder() -> None:
    with pytest.raises(UserError) as error:
        read_source("hh:helpful", DATA)
    assert (
        "--include 'helpful-base/*train*' --include 'helpful-rejection-sampled/*train*' "
        "--include 'helpful-online/*train*' --local-dir downloads/hh-rlhf-helpful`, put the folder here, "
        "and pass hh:downloads/hh-rlhf-helpful@train"
    ) in str(error.value)


def test_what_a_message_says_to_pass_reads_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "How?", "chosen": turns("How?", "So."), "rejected": turns("How?", "Why?")}
    with pytest.raises(UserError) as error:
        read_source("ultrafeedback:hub", DATA)
    spec = str(error.value).split()[-1]
    write(tmp_path / "downloads" / "ultrafeedback_binarized" / "data" / "train_prefs-00000-of-00001.jsonl", row)
    write(tmp_path / "downloads" / "ultrafeedback_binarized" / "data" / "train_sft-00000-of-00001.jsonl", {})
    assert read_source(spec, DATA).triples == [Triple("How?", "So.", "Why?")]


SHARED = {"chosen": "as it was", "rejected": "as it is"}
RUBBISH = (b'{"prompt": "x", "chosen"', {"prompt": "x", "chosen": "a"}, PAIR | {"rejected": "hi"}, b"\xff")


def test_bad_rows_are_one_error_with_every_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIR, *RUBBISH, PAIR, *RUBBISH[:1])
    with pytest.raises(UserError) as error:
        read_source(f"pairs:{path}", DATA)
    message = str(error.value)
    assert message.startswith(
        f"data source pairs:{path}: 5 of 7 rows cannot be pairs, and data.max_bad_rows=0 allows 0: "
    )
    for part in (
        f"2 x not valid JSON (first at {path}, line 2: Expecting",
        f"1 x missing column rejected (first at {path}, line 3: found chosen, prompt; needed chosen, rejected)",
        f"1 x chosen and rejected are the same text (first at {path}, line 4: ",
        f"1 x not valid UTF-8 (first at {path}, line 5: ",
        "--data.max-bad-rows=0.715",
    ):
        assert part in message


def test_bad_rows_within_the_limit_are_counted_drops(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIR, *RUBBISH)
    reading = read_source(f"pairs:{path}", DataConfig(max_bad_rows=0.8))
    assert reading.triples == [Triple(**PAIR)]
    assert reading.drops.total() == reading.bad == 4
    assert reading.first["not valid UTF-8"].startswith(f"{path}, line 5: ")
    with pytest.raises(UserError, match="4 of 5 rows"):
        read_source(f"pairs:{path}", DataConfig(max_bad_rows=0.79))
    with pytest.raises(UserError, match="no pair in 4 rows: 1 x not valid JSON"):
        read_source(f"pairs:{write(tmp_path / 'b.jsonl', *RUBBISH)}", DataConfig(max_bad_rows=1.0))


@pytest.mark.parametrize("rows", [(PAIR, SHARED), (SHARED, SHARED, PAIR)])
def test_a_prompt_column_is_one_of_a_whole_source(tmp_path: Path, rows: tuple[dict[str, str], ...]) -> None:
    """What the answers share is no prompt where other rows have one."""
    path = write(tmp_path / "a.jsonl", *rows)
    first = rows.index(SHARED) + 1
    message = (
        f"{len(rows) - 1} of {len(rows)} rows have no prompt column .first at .*a.jsonl, line {first}., others have"
    )
    with pytest.raises(UserError, match=message):
        read_source(f"pairs:{path}", DATA)
    assert len(read_source(f"pairs:{write(tmp_path / 'b.jsonl', SHARED, SHARED)}", DATA).triples) == 2
    dialogues = {name: turns("q", name) for name in ("chosen", "rejected")}
    assert len(read_source(f"pairs:{write(tmp_path / 'c.jsonl', PAIR, dialogues)}", DATA).triples) == 2


def test_an_error_of_a_fork_s_layout_names_its_file_and_the_row(tmp_path: Path) -> None:
    """One of ours comes through as it is."""
    path, fork = write(tmp_path / "a.jsonl", PAIR, {"prompt": "q"}), tmp_path / "mine.py"
    fork.write_text("# a layout\n")
    source = source_of(fork)
    LAYOUTS.add(Layout("mine", lambda row: Triple(row["prompt"], row["chosen"], row["rejected"])), source)
    try:
        assert source_code(f"mine:{path}") == {"code of layout mine": source.digest}
        with pytest.raises(UserError) as error:
            read_source(f"mine:{path}", DATA)
        assert str(error.value) == f"{path}, line 2: the layout 'mine' of {fork} raised KeyError: 'chosen'"
    finally:
        forget(source)
    assert source_code(f"pairs:{path}") == source_code("notes") == {}


@pytest.mark.parametrize(
    ("sources", "known"),
    [
        (("notes",), True),
        (("notes:a.jsonl",), True),
        (("notes", "notes:a.jsonl"), True),
        (("notes", "pairs:a.jsonl"), False),
        (("hh:b",), False),
    ],
)
def test_the_truth_is_known_for_requests_of_notes_alone(sources: tuple[str, ...], known: bool) -> None:
    data = DataConfig(sources=sources)
    assert known_truth(data) is (notes.score if known else None)
    assert known_flaws(data) is (notes.flaws if known else None)
    assert largest_truth(data) == (notes.MAX_SCORE if known else None)


def test_a_hundred_thousand_rows_with_a_hundredth_rubbish(tmp_path: Path) -> None:
    """Seconds, and memory for the pairs alone."""
    rows = [
        RUBBISH[i // 100 % len(RUBBISH)]
        if i % 100 == 7
        else json.dumps({"prompt": f"question {i} " * 8, "chosen": f"yes {i} " * 8, "rejected": "no " * 8}).encode()
        for i in range(100_000)
    ]
    path = write(tmp_path / "many.jsonl", *rows)
    del rows
    start = time.monotonic()
    with pytest.raises(UserError, match="1,000 of 100,000 rows cannot be pairs.*--data.max-bad-rows=0.01$"):
        read_source(f"pairs:{path}", DATA)
    assert time.monotonic() - start < 30, "about two seconds on an idle core"
    tracemalloc.start()
    reading = read_source(f"pairs:{path}", DataConfig(max_bad_rows=0.01))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reading.triples) == 99_000 and reading.drops.total() == 1000
    assert peak < 1.1 * held + 2e6, "nothing is held beside the pairs"
