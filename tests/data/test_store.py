"""The whole data path onto disk and back. Imports TensorFlow (0.9 GB), so it stands apart from the other data tests."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.config import DataConfig, TokenizerConfig
from pit_jax.data import layouts, tasks
from pit_jax.data.features import build
from pit_jax.data.folds import FOLDS, fold_of
from pit_jax.data.layouts import LAYOUTS
from pit_jax.data.preparation import FOLD_KINDS
from pit_jax.data.ragged import RaggedWriter
from pit_jax.data.store import Prepared, open_data, prepare
from pit_jax.data.text.tokenizers import train_tokenizer
from pit_jax.data.worlds.notes import NOTES
from pit_jax.data.worlds.world import pairs
from pit_jax.errors import UserError
from pit_jax.table import forget, source_of

DATA = DataConfig(world_pairs=300, heldout_fraction=0.2, prompt_length=64, response_length=96)
TOKENS = TokenizerConfig(vocab_size=512)


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(DATA, TOKENS, tmp_path_factory.mktemp("store") / "run" / "data", say=quiet)


def write_pairs(path: Path, count: int, **changes: str) -> Path:
    rows = [{"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": "no"} | changes for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_arrays_and_texts_are_row_aligned(prepared: Prepared) -> None:
    for fold, kinds in FOLD_KINDS.items():
        triples = prepared.triples(fold)
        examples = [prepared.template.example(triple) for triple in triples]
        for kind in kinds:
            expected, arrays = build(kind, examples, prepared.layout), prepared.rows(fold, kind).whole()
            given = prepared.rows_of(kind, triples).whole()
            assert arrays.keys() == expected.keys() == given.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(arrays[name], array, err_msg=f"{fold} {kind} {name}")
                np.testing.assert_array_equal(given[name], array, err_msg=f"{fold} {kind} {name}")


def test_every_pair_lands_in_the_fold_of_its_prompt(prepared: Prepared) -> None:
    kept = {fold: prepared.triples(fold) for fold in FOLDS}
    assert sorted(map(repr, (row for rows in kept.values() for row in rows))) == sorted(map(repr, pairs(NOTES, 300, 0)))
    for fold, rows in kept.items():
        assert {fold_of(row.prompt, 0.2) for row in rows} == {fold}
        assert prepared.report["folds"][fold] == {"examples": len(rows), "by source": {"world:notes": len(rows)}}
    tokens = sum(int(prepared.rows(fold, FOLD_KINDS[fold][0]).feature_lengths.sum()) for fold in FOLDS)
    assert prepared.report["sources"]["world:notes"] == {
        **{"read": 300, "dropped": {}, "first dropped at": {}, "kept": 300, "left out by rates": 0},
        **{"message lists in strings": 0, "tokens": tokens, "unknown tokens": 0},
    }


def test_slots_are_tight(prepared: Prepared) -> None:
    lengths = prepared.report["lengths before drops"]
    longest = max(lengths["chosen"]["max"], lengths["rejected"]["max"]) + 1
    assert longest <= prepared.response_slot < longest + 4 and prepared.response_slot % 4 == 0
    prompts = prepared.rows("rl", "prompts").whole()
    assert prompts["chosen_BR"].shape[1] == prepared.response_slot
    for kind in ("sft-policy", "gap"):
        folds = [fold for fold, kinds in FOLD_KINDS.items() if kind in kinds]
        used = "nodes_BL" if kind == "gap" else "segments_BL"
        arrays = [prepared.rows(fold, kind).whole()[used] for fold in folds]
        assert len({array.shape[1] for array in arrays}) == 1
        assert max((array > 0).sum(axis=1).max() for array in arrays) > arrays[0].shape[1] - 8


def test_the_mixture_of_a_folder_is_the_order_and_the_tokens_of_its_folds(tmp_path: Path) -> None:
    """Two sources of unlike rates: what seqio gives is what stands in the folder, row by row."""
    source = write_pairs(tmp_path / "pairs.jsonl", 200)
    data = replace(DATA, sources=("notes", f"jsonl:{source}"), rates=(2.0, 1.0))
    mixed = prepare(data, TOKENS, tmp_path / "data", say=quiet)
    mixture = open_data(tmp_path / "data").mixture()
    found = list(tasks.examples(mixture, "heldout").as_numpy_iterator())
    for row, example in zip(mixed.triples("heldout"), found, strict=True):
        assert example["chosen"].tolist() == mixed.template.response(row.chosen)
        assert example["prefix"].tolist() == mixed.template.improver_prefix(row.prompt)


def test_a_rotated_fold_and_other_numbers_are_named(prepared: Prepared, tmp_path: Path) -> None:
    """By a command and by the folder alone, before any input is compared."""
    shutil.copytree(prepared.folder, tmp_path / "data")
    np.roll(np.fromfile(tmp_path / "data" / "heldout.bin", np.int32), 1).tofile(tmp_path / "data" / "heldout.bin")
    cure = r"found another one; put it back, or delete .*data and prepare the data again: equal inputs"
    with pytest.raises(UserError, match=rf"heldout\.bin: asked for the file that was written .* {cure}"):
        open_data(tmp_path / "data")
    with pytest.raises(UserError, match=r"heldout\.bin: asked for the file that was written"):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    done = tmp_path / "data" / "done.json"
    done.write_text(done.read_text().replace('"data.world_pairs": 300', '"data.world_pairs": 301'))
    with pytest.raises(UserError, match=rf"done\.json: asked for the file that was written .* {cure}"):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    done.unlink()
    with pytest.raises(UserError, match=r"done\.json: asked for prepared data, found none; run --stage=data"):
        open_data(tmp_path / "data")


def test_more_widths_are_other_data(prepared: Prepared, tmp_path: Path) -> None:
    """The same rows in the same folds, padded to fewer slots; and the folder of one width is refused."""
    with pytest.raises(UserError, match=r"data\.buckets: was 1, now 3"):
        prepare(replace(DATA, buckets=3), TOKENS, prepared.folder, say=quiet)
    narrow = prepare(replace(DATA, buckets=3), TOKENS, tmp_path / "data", say=quiet)
    assert narrow.triples("rm") == prepared.triples("rm") and narrow.fingerprint != prepared.fingerprint
    widths = narrow.layout.widths("gap")
    assert len(widths) == 3 and widths[-1:] == prepared.layout.widths("gap")
    rows = narrow.rows("rm", "gap")
    assert rows.lengths_N is not None
    shortest = rows.batch(np.argsort(rows.lengths_N)[:4])
    assert shortest["tokens_BL"].shape == (4, widths[0])


def test_unknown_rows_are_refused(prepared: Prepared) -> None:
    with pytest.raises(UserError, match="no rows of kind 'gap' in fold 'sft'; prepared are"):
        prepared.rows("sft", "gap")


def test_the_tokenizer_sees_the_sft_fold_only(prepared: Prepared, tmp_path: Path) -> None:
    texts = [
        text
        for t in pairs(NOTES, 300, 0)
        if fold_of(t.prompt, 0.2) == "sft"
        for text in (t.prompt, t.chosen, t.rejected)
    ]
    assert train_tokenizer(texts, vocab_size=512, folder=tmp_path / "t") == prepared.tokenizer


def test_second_call_reads_the_same_without_tensorflow(prepared: Prepared) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.folder.rglob("*")}
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pit_jax.config import DataConfig, TokenizerConfig\n"
        "from pit_jax.data.store import prepare\n"
        f"p = prepare({DATA!r}, {TOKENS!r}, Path({str(prepared.folder)!r}))\n"
        "print(p.fingerprint, p.rows('heldout', 'gap').whole()['tokens_BL'].sum(), len(p.triples('heldout')))\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = prepared.rows("heldout", "gap").whole()["tokens_BL"]
    assert done.stdout.splitlines() == [f"{prepared.fingerprint} {rows.sum()} {len(rows)}", "[]"]
    assert done.stderr == ""
    assert before == {path: path.stat().st_mtime_ns for path in prepared.folder.rglob("*")}


def test_the_same_inputs_give_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    again = prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert again.fingerprint == prepared.fingerprint
    for fold, kinds in FOLD_KINDS.items():
        assert again.triples(fold) == prepared.triples(fold)
        for kind in kinds:
            for name, array in again.rows(fold, kind).whole().items():
                np.testing.assert_array_equal(array, prepared.rows(fold, kind).whole()[name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_changed_inputs_are_named_and_nothing_is_written_over(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.world_pairs: was 300, now 301") as error:
        prepare(replace(DATA, world_pairs=301), TOKENS, prepared.folder, say=quiet)
    assert "choose another workdir" in str(error.value)
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size: was 512, now 400"):
        prepare(DATA, replace(TOKENS, vocab_size=400), prepared.folder, say=quiet)
    source = write_pairs(tmp_path / "pairs.jsonl", 60)
    data = replace(DATA, sources=(f"jsonl:{source}",))
    prepare(data, TOKENS, tmp_path / "data", say=quiet)
    write_pairs(source, 61)
    with pytest.raises(UserError, match=r"contents of .*pairs\.jsonl: was \w+, now \w+"):
        prepare(data, TOKENS, tmp_path / "data", say=quiet)


def test_a_crash_leaves_nothing_that_looks_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, append = list[Any](), RaggedWriter.append

    def crash(*args: Any, **named: Any) -> None:
        calls.append(args)
        append(*args)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RaggedWriter, "append", crash)
    with pytest.raises(KeyboardInterrupt):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert len(calls) == 2 and not list(tmp_path.iterdir())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sft.bin").write_text("half")
    with pytest.raises(UserError, match="exists but holds no finished data set; remove it"):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert (tmp_path / "data" / "sft.bin").read_text() == "half"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot write .*data: .*; free space there, change its rights or pass another"
    ):
        prepare(DATA, TOKENS, tmp_path / "file" / "data", say=quiet)

    def full(*args: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RaggedWriter, "append", full)
    with pytest.raises(UserError, match="cannot write .*No space left on device"):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("notes", "notes"), "rates": (1.0, 1.0)}, "each source once"),
        ({"sources": ("notes", "world:notes"), "rates": (1.0, 1.0)}, "each source once"),
        ({"sources": ("world:noets",)}, "no world 'noets'; did you mean notes"),
        ({"rates": (1.0, 2.0)}, "1 sources, 2 rates"),
        ({"sources": ("noets",)}, "did you mean 'notes'"),
        ({"sources": ("jsonl:absent.jsonl",)}, "absent.jsonl: no such file"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(replace(DATA, **changes), TOKENS, tmp_path / "data", say=quiet)
    assert not list(tmp_path.iterdir())


def test_an_empty_fold_says_what_was_dropped(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "long.jsonl", 40, rejected="far too long " * 60)
    data = replace(DATA, sources=(f"jsonl:{source}",))
    with pytest.raises(UserError, match="kept no example.*40 x rejected answer over 96 tokens"):
        prepare(data, TOKENS, tmp_path / "data", say=quiet)
    source = write_pairs(tmp_path / "few.jsonl", 2)
    few = prepare(replace(DATA, sources=(f"jsonl:{source}",)), TOKENS, tmp_path / "data", say=quiet)
    empty = next(fold for fold in FOLDS if fold not in few.filled)
    assert not few.triples(empty)
    with pytest.raises(UserError, match=f"fold {empty} is empty: of 2 pairs read, 2 were kept; dropped: nothing"):
        few.rows(empty, FOLD_KINDS[empty][0])


def test_two_sources_are_mixed_by_their_rates(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs.jsonl", 400)
    data = replace(DATA, sources=("notes", f"jsonl:{source}"), rates=(1.0, 3.0))
    mixed = prepare(data, TOKENS, tmp_path / "data", say=quiet)
    for fold in FOLDS:
        count = mixed.report["folds"][fold]["by source"]
        assert count[f"jsonl:{source}"] - 3 <= 3 * count["notes"] <= count[f"jsonl:{source}"] + 3
        assert sum(count.values()) == len(mixed.triples(fold)) == mixed.report["folds"][fold]["examples"]
    for report in mixed.report["sources"].values():
        assert report["read"] == report["kept"]
    assert mixed.report["sources"]["notes"]["left out by rates"] > 100


def test_margins_and_the_first_bad_rows_arrive(tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": "no", "margin": i / 4} for i in range(99)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{}\n")
    data = replace(DATA, sources=(f"pairs:{source}",), max_bad_rows=0.01)
    found = prepare(data, TOKENS, tmp_path / "data", say=quiet)
    report = found.report["sources"][f"pairs:{source}"]
    assert (report["read"], report["kept"], report["dropped"]) == (100, 99, {"missing columns chosen, rejected": 1})
    assert "pairs.jsonl, line 100: found none" in report["first dropped at"]["missing columns chosen, rejected"]
    for fold in ("rm", "heldout"):
        margins = [float(triple.prompt.split()[1]) / 4 for triple in found.triples(fold)]
        assert found.rows(fold, "reward").whole()["margin_B"].tolist() == margins
        assert [triple.margin for triple in found.triples(fold)] == margins


def test_answers_as_texts(prepared: Prepared) -> None:
    """One a row of tokens, up to its EOS, special tokens left out."""
    rows, triples = prepared.rows("heldout", "prompts").whole(), prepared.triples("heldout")
    assert prepared.texts(rows["chosen_BR"]) == [triple.chosen for triple in triples]
    eos, hello = prepared.tokenizer.eos_id, prepared.tokenizer.encode("hello")
    assert prepared.texts([[*hello, eos, *hello]]) == ["hello"] and prepared.texts(np.zeros((0, 4), int)) == []


def test_a_folder_is_opened_as_it_is(prepared: Prepared, tmp_path: Path) -> None:
    """Whatever it was prepared from; a file that changes its tokenizer is noticed."""
    found = open_data(prepared.folder)
    assert (found.fingerprint, found.tokenizer, found.report) == (
        prepared.fingerprint,
        prepared.tokenizer,
        prepared.report,
    )
    shutil.copytree(prepared.folder, tmp_path / "data")
    (tmp_path / "data" / "tokenizer" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.raises(UserError, match="data/tokenizer changed since the data were prepared; put it back"):
        open_data(tmp_path / "data")


FORK = """
from helpers import double
from pit_jax.batch import Triple

def parse(row):
    return Triple(double(row["prompt"]), row["chosen"], row["rejected"])
"""


def test_data_depend_on_the_code_of_a_fork_s_layout(tmp_path: Path) -> None:
    """And on a module beside it: one byte, and the same folder is refused and another fingerprint made."""
    fork, helpers, source = tmp_path / "mine.py", tmp_path / "helpers.py", write_pairs(tmp_path / "pairs.jsonl", 60)
    fork.write_text(FORK)
    data = replace(DATA, sources=(f"mine:{source}",))

    def prepare_with(helper: str, folder: str) -> Prepared:
        """As a fork is loaded: its values belong to the code that stands in its files now."""
        helpers.write_text(helper)
        code: dict[str, Any] = {"__name__": "mine"}
        exec(FORK.replace("from helpers import double", helper), code)
        found = source_of(fork)
        LAYOUTS.add(layouts.Layout("mine", code["parse"]), found)
        try:
            return prepare(data, TOKENS, tmp_path / folder, say=quiet)
        finally:
            forget(found)

    before = "def double(text):\n    return 2 * text\n"
    first = prepare_with(before, "one")
    assert {row.prompt for row in first.triples("sft")} <= {2 * f"question {i}" for i in range(60)}
    assert prepare_with(before, "one").fingerprint == first.fingerprint
    with pytest.raises(UserError, match=r"code of layout mine: was \w+, now \w+"):
        prepare_with(before + "#", "one")
    other = prepare_with(before + "#", "two")
    assert other.triples("sft") == first.triples("sft") and other.fingerprint != first.fingerprint
    with pytest.raises(UserError, match="unknown layout 'mine'"):
        prepare(data, TOKENS, tmp_path / "one", say=quiet)


def test_given_tokenizer_is_used_and_copied(prepared: Prepared, tmp_path: Path) -> None:
    given = TokenizerConfig(path=str(prepared.folder / "tokenizer"))
    copied = prepare(replace(DATA, world_seed=1), given, tmp_path / "data", say=quiet)
    assert copied.tokenizer == prepared.tokenizer
    assert (copied.folder / "tokenizer" / "tokenizer.json").exists()
