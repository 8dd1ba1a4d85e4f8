"""The whole data path onto disk and back. Imports TensorFlow (0.9 GB), so it stands apart from the other data tests."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pit_jax.config import DataConfig, TokenizerConfig
from pit_jax.data import notes, tasks
from pit_jax.data.features import Layout, build
from pit_jax.data.folds import FOLDS, fold_of
from pit_jax.data.store import FOLD_KINDS, Prepared, prepare
from pit_jax.data.text.tokenizers import load_tokenizer, train_tokenizer
from pit_jax.data.text.transcripts import transcript
from tests.data.text.chat_tokenizers import written
from tests.data.text.published_templates import PUBLISHED
from tests.data.text.sentencepiece_models import SETTINGS, train

DATA = DataConfig(notes_pairs=300, heldout_fraction=0.2, prompt_length=64, response_length=96)
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
    saved = prepared.report["layout"]
    layout = Layout(**saved | {"suffix": tuple(saved["suffix"])})
    for fold, kinds in FOLD_KINDS.items():
        rows = prepared.triples(fold)
        examples = tasks.tokenise(rows, prepared.template, tasks.encode(rows, prepared.template))
        for kind in kinds:
            expected, arrays = build(kind, examples, layout), prepared.arrays(fold, kind)
            assert arrays.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(arrays[name], array, err_msg=f"{fold} {kind} {name}")


def test_every_pair_lands_in_the_fold_of_its_prompt(prepared: Prepared) -> None:
    kept = {fold: prepared.triples(fold) for fold in FOLDS}
    assert sorted(map(repr, sum(kept.values(), []))) == sorted(map(repr, notes.pairs(300, 0)))
    for fold, rows in kept.items():
        assert {fold_of(row.prompt, 0.2) for row in rows} == {fold}
        assert prepared.report["folds"][fold] == {"examples": len(rows), "by source": {"notes": len(rows)}}
    assert prepared.report["sources"]["notes"] == {
        **{"read": 300, "dropped": {}, "first dropped at": {}, "kept": 300, "left out by rates": 0}
    }


def test_slots_are_tight(prepared: Prepared) -> None:
    lengths = prepared.report["lengths before drops"]
    longest = max(lengths["chosen"]["max"], lengths["rejected"]["max"]) + 1
    assert longest <= prepared.response_slot < longest + 4 and prepared.response_slot % 4 == 0
    prompts = prepared.arrays("rl", "prompts")
    assert prompts["chosen_BR"].shape[1] == prepared.response_slot
    for kind in ("sft-policy", "gap"):
        folds = [fold for fold, kinds in FOLD_KINDS.items() if kind in kinds]
        used = "nodes_BL" if kind == "gap" else "segments_BL"
        arrays = [prepared.arrays(fold, kind)[used] for fold in folds]
        assert len({array.shape[1] for array in arrays}) == 1
        assert max((array > 0).sum(axis=1).max() for array in arrays) > arrays[0].shape[1] - 8


def test_unknown_rows_are_refused(prepared: Prepared) -> None:
    with pytest.raises(ValueError, match="no rows of kind 'gap' in fold 'sft'; prepared are"):
        prepared.arrays("sft", "gap")


def test_the_tokenizer_sees_the_sft_fold_only(prepared: Prepared, tmp_path: Path) -> None:
    texts = [
        text
        for t in notes.pairs(300, 0)
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
        "print(p.fingerprint, p.arrays('heldout', 'gap')['tokens_BL'].sum(), len(p.triples('heldout')))\n"
        "print([m for m in ('tensorflow', 'seqio', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = prepared.arrays("heldout", "gap")["tokens_BL"]
    assert done.stdout.splitlines() == [f"{prepared.fingerprint} {rows.sum()} {len(rows)}", "[]"]
    assert done.stderr == ""
    assert before == {path: path.stat().st_mtime_ns for path in prepared.folder.rglob("*")}


def test_the_same_inputs_give_the_same_bytes(prepared: Prepared, tmp_path: Path) -> None:
    again = prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert again.fingerprint == prepared.fingerprint
    for fold, kinds in FOLD_KINDS.items():
        assert again.triples(fold) == prepared.triples(fold)
        for kind in kinds:
            for name, array in again.arrays(fold, kind).items():
                np.testing.assert_array_equal(array, prepared.arrays(fold, kind)[name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_changed_inputs_are_named_and_nothing_is_written_over(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.notes_pairs: was 300, now 301") as error:
        prepare(replace(DATA, notes_pairs=301), TOKENS, prepared.folder, say=quiet)
    assert "choose another workdir" in str(error.value)
    with pytest.raises(ValueError, match=r"tokenizer\.vocab_size: was 512, now 400"):
        prepare(DATA, replace(TOKENS, vocab_size=400), prepared.folder, say=quiet)
    source = write_pairs(tmp_path / "pairs.jsonl", 60)
    data = replace(DATA, sources=(f"jsonl:{source}",))
    prepare(data, TOKENS, tmp_path / "data", say=quiet)
    write_pairs(source, 61)
    with pytest.raises(ValueError, match=r"contents of .*pairs\.jsonl: was \w+, now \w+"):
        prepare(data, TOKENS, tmp_path / "data", say=quiet)


def test_a_crash_leaves_nothing_that_looks_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def crash(*args: Any, **named: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", crash)
    with pytest.raises(KeyboardInterrupt):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert len(calls) == 3 and not list(tmp_path.iterdir())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sft.npz").write_text("half")
    with pytest.raises(ValueError, match="exists but holds no finished data set; remove it"):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert (tmp_path / "data" / "sft.npz").read_text() == "half"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the data set to .*choose a writable workdir or free some space"):
        prepare(DATA, TOKENS, tmp_path / "file" / "data", say=quiet)

    def full(*args: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match="cannot write .*No space left on device"):
        prepare(DATA, TOKENS, tmp_path / "data", say=quiet)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "must name at least one source"),
        ({"sources": ("notes", "notes"), "rates": (1.0, 1.0)}, "each once"),
        ({"rates": (1.0, 2.0)}, "1 sources, 2 rates"),
        ({"rates": (0.0,)}, "rates must be positive"),
        ({"heldout_fraction": 0.0}, "must lie between 0 and 1, found 0.0"),
        ({"sources": ("noets",)}, "did you mean 'notes'"),
        ({"sources": ("jsonl:absent.jsonl",)}, "absent.jsonl: no such file"),
        ({"max_bad_rows": 1.5}, "must be a share from 0 to 1, found 1.5"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(replace(DATA, **changes), TOKENS, tmp_path / "data", say=quiet)
    assert not list(tmp_path.iterdir())


def test_an_empty_fold_says_what_was_dropped(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "long.jsonl", 40, rejected="far too long " * 60)
    data = replace(DATA, sources=(f"jsonl:{source}",))
    with pytest.raises(ValueError, match="kept no example.*40 x rejected answer over 96 tokens"):
        prepare(data, TOKENS, tmp_path / "data", say=quiet)
    source = write_pairs(tmp_path / "few.jsonl", 2)
    with pytest.raises(ValueError, match=r"fold \w+ is empty: of 2 pairs read, 2 were kept; dropped: nothing"):
        prepare(replace(DATA, sources=(f"jsonl:{source}",)), TOKENS, tmp_path / "data", say=quiet)


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
        assert found.arrays(fold, "reward")["margin_B"].tolist() == margins
        assert [triple.margin for triple in found.triples(fold)] == margins


def test_given_tokenizer_is_used_and_copied(prepared: Prepared, tmp_path: Path) -> None:
    given = TokenizerConfig(path=str(prepared.folder / "tokenizer"))
    copied = prepare(replace(DATA, notes_seed=1), given, tmp_path / "data", say=quiet)
    assert copied.tokenizer == prepared.tokenizer
    assert (copied.folder / "tokenizer" / "tokenizer.json").exists()


def test_a_sentencepiece_model_is_used_and_watched(tmp_path: Path) -> None:
    folder = train(tmp_path / "sp", model_type="bpe", **SETTINGS["as Llama"])
    given = TokenizerConfig(path=str(folder))
    found = prepare(DATA, given, tmp_path / "data", say=quiet)
    assert found.tokenizer == load_tokenizer(folder) and (found.folder / "tokenizer" / "tokenizer.json").exists()
    assert found.template.text(found.template.response("see you")) == "see you"
    train(folder, model_type="unigram", **SETTINGS["as Llama"])
    with pytest.raises(ValueError, match=r"contents of .*tokenizer\.model: was \w+, now \w+"):
        prepare(DATA, given, tmp_path / "data", say=quiet)


def test_rows_that_the_chat_template_refuses_are_counted(tmp_path: Path) -> None:
    folder = written(tmp_path / "gemma", "bytes", PUBLISHED["gemma"])
    turns = [("user", "hello"), ("assistant", "yes?"), ("user", "are you there")]
    rows = [
        {"prompt": transcript([(role, f"{text} {i}") for role, text in chosen]), "chosen": f"yes {i}", "rejected": "no"}
        for i in range(60)
        for chosen in (turns, [turns[0], turns[2]], [("system", "be kind"), turns[0]])
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = replace(DATA, sources=(f"jsonl:{tmp_path / 'pairs.jsonl'}",), prompt_length=200)
    found = prepare(data, TokenizerConfig(path=str(folder)), tmp_path / "data", say=quiet)
    (report,) = found.report["sources"].values()
    assert (report["read"], report["kept"]) == (180, 60)
    assert report["dropped"] == {
        "the chat template raises 'Roles must alternate' (roles user, user)": 60,
        "the chat template raises 'System role not supported' (roles system, user)": 60,
    }
    assert all("hello" in row.prompt and "yes?" in row.prompt for row in found.triples("rl"))
    assert found.report["lengths before drops"]["prompt"]["p50"] > 0


def test_a_chat_template_that_raises_is_named_by_the_user_s_folder(tmp_path: Path) -> None:
    broken = replace(PUBLISHED["chatml"], template="{{ raise_exception('not today') }}")
    folder = written(tmp_path / "mine", "bytes", broken)
    with pytest.raises(ValueError, match=rf"tokenizer folder {folder}: .* raises 'not today', so .*change chat_templ"):
        prepare(DATA, TokenizerConfig(path=str(folder)), tmp_path / "data", say=quiet)
    assert not (tmp_path / "data").exists()


def test_real_transcripts_end_to_end(repository: Path, tmp_path: Path) -> None:
    path = repository.parent / "shared" / "data" / "hh_rlhf_harmless_slice.jsonl.gz"
    if not path.exists():
        pytest.skip(f"the HH-RLHF slice is not at {path}")
    data = DataConfig(sources=(f"hh:{path}",), prompt_length=256, response_length=128, heldout_fraction=0.1)
    said: list[str] = []
    hh = prepare(data, TokenizerConfig(vocab_size=2000), tmp_path / "data", say=said.append)
    (report,) = hh.report["sources"].values()
    assert report["read"] == 1500
    assert report["kept"] + sum(report["dropped"].values()) == 1500
    assert report["dropped"]["empty answer"] == 4
    assert sum("over" in reason for reason in report["dropped"]) == 3
    prompts = {fold: {t.prompt for t in hh.triples(fold)} for fold in FOLDS}
    assert sum(len(p) for p in prompts.values()) == len(set().union(*prompts.values()))
    assert sum(p.count("\n\nHuman:") > 1 for p in prompts["sft"]) > 50
    rows = hh.arrays("sft", "sft-policy")
    for row, triple in enumerate(hh.triples("sft")):
        taught = rows["targets_BL"][row][rows["mask_BL"][row]]
        assert taught[-1] == hh.tokenizer.eos_id and hh.template.text(taught) == triple.chosen
    assert any("reading hh:" in line for line in said)
