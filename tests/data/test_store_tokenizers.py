"""The data path with tokenizers that people bring, and real transcripts. Imports TensorFlow (0.9 GB)."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers

from pit_jax.config import DataConfig, TokenizerConfig
from pit_jax.data.folds import FOLDS
from pit_jax.data.store import Prepared, prepare
from pit_jax.data.text.tokenizers import load_tokenizer, train_tokenizer
from pit_jax.data.text.transcripts import stored
from pit_jax.errors import UserError
from tests.data.rows import write
from tests.data.text.chat_tokenizers import written
from tests.data.text.published_templates import PUBLISHED
from tests.data.text.sentencepiece_models import SETTINGS, train

DATA = DataConfig(world_pairs=300, heldout_fraction=0.2, prompt_length=64, response_length=96)


def quiet(_: str) -> None:
    pass


def test_a_sentencepiece_model_is_used_and_watched(tmp_path: Path) -> None:
    folder = train(tmp_path / "sp", model_type="bpe", **SETTINGS["as Llama"])
    given = TokenizerConfig(path=str(folder))
    found = prepare(DATA, given, tmp_path / "data", say=quiet)
    assert found.tokenizer == load_tokenizer(folder) and (found.folder / "tokenizer" / "tokenizer.json").exists()
    assert found.template.text(found.template.response("see you")) == "see you"
    train(folder, model_type="unigram", **SETTINGS["as Llama"])
    with pytest.raises(UserError, match=r"contents of .*tokenizer\.model: was \w+, now \w+"):
        prepare(DATA, given, tmp_path / "data", say=quiet)


def test_the_same_contents_by_another_path_are_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources and tokenizer: moved, linked, relative. Other contents are named by the path that is given now."""
    rows = [{"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(60)]
    train_tokenizer(["question yes no"], vocab_size=270, folder=tmp_path / "one" / "tokenizer")
    write(tmp_path / "one" / "pairs.jsonl", *rows)

    def prepare_from(folder: str, target: str = "data", *, sources: tuple[str, ...] = ()) -> Prepared:
        data = DataConfig(sources or ("notes", f"pairs:{folder}/pairs.jsonl"), (1.0, 2.0), 0.2, world_pairs=300)
        data = replace(data, prompt_length=256, response_length=256)
        return prepare(data, TokenizerConfig(path=f"{folder}/tokenizer"), tmp_path / target, say=quiet)

    first = prepare_from(str(tmp_path / "one"))
    (tmp_path / "two").symlink_to(tmp_path / "one")
    monkeypatch.chdir(tmp_path)
    assert prepare_from("two").fingerprint == prepare_from("one").fingerprint == first.fingerprint
    shutil.copytree("one", "moved/there")
    again = prepare_from("moved/there", "again")
    assert again.fingerprint == first.fingerprint and again.triples("sft") == first.triples("sft")
    with pytest.raises(UserError, match=r"source 1: was notes, now pairs:; .*source 2: was pairs:, now n"):
        prepare_from("one", sources=("pairs:one/pairs.jsonl", "notes"))
    write(tmp_path / "moved" / "there" / "pairs.jsonl", *rows[1:])
    with pytest.raises(UserError, match=r"\(contents of moved/there/pairs\.jsonl: was \w{12}, now \w{12}\); restore"):
        prepare_from("moved/there")


def test_rows_that_the_chat_template_refuses_are_counted(tmp_path: Path) -> None:
    folder = written(tmp_path / "gemma", "bytes", PUBLISHED["gemma"])
    turns = [("user", "hello"), ("assistant", "yes?"), ("user", "are you there")]
    rows = [
        {"prompt": stored([(role, f"{text} {i}") for role, text in chosen]), "chosen": f"yes {i}", "rejected": "no"}
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
    with pytest.raises(UserError, match=rf"tokenizer folder {folder}: .* raises 'not today', so .*change chat_templ"):
        prepare(DATA, TokenizerConfig(path=str(folder)), tmp_path / "data", say=quiet)
    assert not (tmp_path / "data").exists()


def test_contradicting_pairs_and_unknown_tokens_are_counted(tmp_path: Path) -> None:
    """Pairs that stand there in both orders teach nothing: all of them are left out, kept, or refused."""
    from transformers import PreTrainedTokenizerFast

    words = {"<unk>": 0, "</s>": 1, "question": 2, "yes": 3, "no": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(tmp_path / "words")
    source, given = tmp_path / "pairs.jsonl", TokenizerConfig(path=str(tmp_path / "words"))
    rows = [{"prompt": f"question {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(80)]
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[10:30]]
    swapped[0] = {name: json.dumps([{"role": "assistant", "content": text}]) for name, text in swapped[0].items()}
    swapped[0]["prompt"] = rows[10]["prompt"]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows + swapped))
    data, why = replace(DATA, sources=(f"pairs:{source}",)), "the same pair with its answers swapped stands there too"
    dropped = prepare(data, given, tmp_path / "dropped", say=quiet).report["sources"][f"pairs:{source}"]
    assert (dropped["read"], dropped["kept"], dropped["dropped"]) == (100, 60, {why: 40})
    assert dropped["first dropped at"] == {why: "pair 11 of the source, 'question 10'"}
    assert dropped["message lists in strings"] == 1
    assert (dropped["tokens"], dropped["unknown tokens"]) == (60 * 9, 60 * 3), "question i <answer> twice, yes i, no"
    kept = prepare(replace(data, contradictions="keep"), given, tmp_path / "kept", say=quiet)
    assert kept.report["sources"][f"pairs:{source}"]["kept"] == 100
    with pytest.raises(UserError, match=rf"40 x {why} \(first at pair 11 .*--data.contradictions=drop"):
        prepare(replace(data, contradictions="refuse"), given, tmp_path / "refused", say=quiet)
    with pytest.raises(UserError, match="words has no chat template; leave it out"):
        prepare(data, replace(given, template_arguments=("a=1",)), tmp_path / "refused", say=quiet)


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
    rows = hh.rows("sft", "sft-policy").whole()
    for row, triple in enumerate(hh.triples("sft")):
        taught = rows["targets_BL"][row][rows["mask_BL"][row]]
        assert taught[-1] == hh.tokenizer.eos_id and hh.template.text(taught) == triple.chosen
    assert any("reading hh:" in line for line in said)
