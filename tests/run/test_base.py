"""A run that starts from a checkpoint: what it takes from the folder, and folders that it does not take."""

import ast
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from pit_jax.config import Config
from pit_jax.data.text.tokenizers import ids_of_file, ids_of_folder, load_tokenizer
from pit_jax.errors import UserError
from pit_jax.flags import parse
from pit_jax.recipes.catalogue import REWARD, RL_POLICY, SFT_POLICY
from pit_jax.run.base import described, load_base, with_base, with_new_rows
from tests import tiny_checkpoint
from tests.data.text.sentencepiece_models import SETTINGS, train
from tests.run.on_disk import folder_in, make

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint.write(tmp_path_factory.mktemp("llama"))


def based(folder: Path, **changes: Any) -> Config:
    return with_base(replace(Config(), base=str(folder), **changes))


def test_the_folder_sets_transformer_and_tokenizer(checkpoint: Path) -> None:
    ours = replace(Config().transformer, width=999, remat="dots", pooled_head=True)
    found = based(checkpoint, transformer=ours)
    assert (found.transformer.width, found.transformer.ffn, found.transformer.embedding_scale) == (16, 24, False)
    assert found.transformer.vocab_rows == ids_of_file(checkpoint) + tiny_checkpoint.PADDING_ROWS
    assert found.transformer.remat == "dots" and found.transformer.pooled_head
    assert found.tokenizer.path == str(checkpoint) and with_base(Config()) == Config()


@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_are_those_of_the_folder_and_new_tokens_have_rows(
    tied: bool, tmp_path: Path, make_mesh: Any
) -> None:
    folder = tiny_checkpoint.write(tmp_path, tied=tied)
    config, known = based(folder), ids_of_file(folder)
    ids = known + 4  # PAD and three separators, two of them in rows that padded the embedding
    params = jax.device_get(load_base(config, make_mesh(2, 2, 2), KEY, ids=ids, rows=ids))
    theirs = load_file(folder / "model.safetensors")
    embedding_VD, before_VD = params["embedding"], theirs["model.embed_tokens.weight"]
    np.testing.assert_array_equal(embedding_VD[:known], before_VD[:known])
    new_ND = embedding_VD[known:]
    assert new_ND.shape == (4, 16) and 0.5 < new_ND.std() / before_VD[:known].std() < 2
    assert len(np.unique(new_ND, axis=0)) == 4
    assert ("unembedding" in params) is not tied
    if not tied:
        np.testing.assert_array_equal(params["unembedding"][:, :known], theirs["lm_head.weight"][:known].T)
    expected = theirs["model.layers.1.self_attn.q_proj.weight"].T.reshape(16, 4, 4)
    np.testing.assert_array_equal(params["blocks"]["attention"]["query"][1], expected)


def test_rows_that_stay_and_rows_that_are_drawn() -> None:
    table_VD = jnp.asarray(np.random.default_rng(0).normal(3.0, 0.5, (50, 4)).astype(np.float32))
    found = np.asarray(with_new_rows(table_VD, jax.random.key(0), 40, 43, 60))
    np.testing.assert_array_equal(found[:40], table_VD[:40])
    np.testing.assert_array_equal(found[43:50], table_VD[43:])
    assert (found[50:] == 0).all() and np.abs(found[40:43] - 3.0).max() < 3 and (found[40:43] != table_VD[40:43]).all()


def rewritten(**changes: Any) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


NO_CONFIGS = ("{", "null", "[3]", "[" * 100_000)
NO_CONFIG = "config.json: asked for the config of a model, found"
SPOILT: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "config.json").unlink(), "asked for the folder of a checkpoint, found no config.json"),
    *((lambda folder, text=text: (folder / "config.json").write_text(text), NO_CONFIG) for text in NO_CONFIGS),
    (rewritten(model_type="nonsense"), NO_CONFIG),
    (rewritten(rms_norm_eps="1e-6"), NO_CONFIG),
    (rewritten(tie_word_embeddings=None), NO_CONFIG),
    (rewritten(model_type="nonsense", auto_map={"AutoConfig": "own.Config"}), NO_CONFIG),
    (rewritten(model_type="mamba"), "model_type 'mamba' is no family known here; nearest: llama; known: llama"),
    (rewritten(sinks=3), "llama config: nothing here reads sinks=3"),
    (rewritten(num_hidden_layers=10**9), "num_hidden_layers=1000000000, asked for 10000 at most"),
    (rewritten(hidden_size=-16, head_dim=4), "llama config: width=-16: asked for INT>=1"),
    (rewritten(rms_norm_eps=-1.0), "llama config: norm_eps=-1.0: asked for FLOAT>=0"),
    (rewritten(num_labels=10**9), "num_labels=1000000000, asked for 10000 at most"),
    (rewritten(num_hidden_layers=9999), r"describes [\d,]+ parameters .* the files hold [\d,]+; the two do not"),
    (rewritten(hidden_size=10**9, head_dim=4), "describes .* parameters .*width=1000000000"),
    (rewritten(intermediate_size=10**9), "describes .* parameters .*ffn=1000000000"),
    (rewritten(head_dim=10**9), "describes .* parameters .*heads of 1000000000"),
    (rewritten(vocab_size=10**9), "describes .* parameters .*vocabulary=1000000000"),
    (rewritten(vocab_size=100), r"the tokenizer has \d+ ids, the embedding 100 rows"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: asked for a fast tokenizer, found"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILT)
def test_a_folder_that_does_not_serve_is_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    tiny_checkpoint.write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        based(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_base_asks_to_run_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known type that also names code is read without it; what asks on the terminal would wait for an answer."""

    def asks(*_: object) -> str:
        raise AssertionError("it asks on the terminal")

    monkeypatch.setattr("builtins.input", asks)
    tiny_checkpoint.write(tmp_path)
    rewritten(auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["own.Tok", "own.Fast"]}})
    )
    (tmp_path / "own.py").write_text("raise AssertionError('it ran')")
    assert described(tmp_path)["model_type"] == "llama"
    assert load_tokenizer(tmp_path).vocab_size > 256


@pytest.mark.parametrize("folder", ["pit_jax", "launch"])
def test_whatever_reads_a_checkpoint_says_that_no_code_is_run(repository: Path, folder: str) -> None:
    for path in (repository / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_pretrained"):
                said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert said.get("trust_remote_code") == "False", f"{path}, line {node.lineno}"


@pytest.mark.parametrize(
    "flag",
    ["--transformer.layers=7", "--transformer.rope_theta=1e6", "--transformer.no-tied", "--tokenizer.vocab-size=9"],
)
def test_what_a_base_sets_cannot_be_asked_for(checkpoint: Path, flag: str) -> None:
    """What no checkpoint sets can."""
    allowed = parse([f"--base={checkpoint}", "--transformer.pooled-head", "--transformer.remat=full"])
    assert allowed.transformer.pooled_head and allowed.transformer.layers == 2
    assert not parse([f"--base={checkpoint}"]).transformer.pooled_head, "it must be asked for"
    with pytest.raises(UserError, match=r" beside --base=.*: a base sets this itself; leave it out"):
        parse([f"--base={checkpoint}", flag])


@pytest.fixture(scope="module")
def sentencepiece_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same Llama with nothing but tokenizer.model, of 300 pieces in an embedding with more rows."""
    more = [f"<{number}>" for number in range(100)]
    folder = tiny_checkpoint.write(tmp_path_factory.mktemp("sp-llama"), special=more, vocab_size=400)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    return train(folder, model_type="bpe", vocab_size=300, **SETTINGS["as Llama"])


def test_a_sentencepiece_model_is_a_base_s_tokenizer(sentencepiece_checkpoint: Path, make_mesh: Any) -> None:
    folder = sentencepiece_checkpoint
    config, tokenizer = based(folder), load_tokenizer(folder)
    rows = config.transformer.vocab_rows
    assert ids_of_file(folder) == ids_of_folder(folder) == 300 < tokenizer.vocab_size == 304 < rows
    sizes = {"ids": tokenizer.vocab_size, "rows": rows}
    params = jax.device_get(load_base(config, make_mesh(1, 1, 1), KEY, **sizes))
    before_VD = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    after_VD = params["embedding"]
    np.testing.assert_array_equal(after_VD[:300], before_VD[:300])
    np.testing.assert_array_equal(after_VD[304:], before_VD[304:])
    assert (after_VD[300:304] != before_VD[300:304]).all()


def test_a_vocabulary_larger_than_the_embedding(sentencepiece_checkpoint: Path, tmp_path: Path) -> None:
    """With either kind of tokenizer; tokens that its configuration alone names get rows, as ours do."""
    folder = tmp_path / "sp"
    shutil.copytree(sentencepiece_checkpoint, folder)
    rewritten(vocab_size=299)(folder)
    with pytest.raises(UserError, match=f"--base={folder}: the tokenizer has 300 ids, the embedding 299 rows"):
        based(folder)
    rewritten(vocab_size=300)(folder)
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<a new one>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert based(folder).transformer.vocab_rows == ids_of_file(folder) == ids_of_folder(folder) - 1


def test_another_tokenizer_is_refused(checkpoint: Path) -> None:
    own = replace(Config().tokenizer, path=str(checkpoint))
    assert based(checkpoint, tokenizer=own).tokenizer == own
    with pytest.raises(UserError, match=re.escape(f"--tokenizer.path=elsewhere beside --base={checkpoint}")):
        based(checkpoint, tokenizer=replace(own, path="elsewhere"))


def test_a_base_counts_by_its_weights_and_not_by_its_path(checkpoint: Path, tmp_path: Path) -> None:
    """The same weights elsewhere are the same base; others in their place are refused, under what was trained on the
    old ones too."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "base"))
    make(tmp_path, SFT_POLICY, config=based(folder))
    make(tmp_path, REWARD, config=based(Path(shutil.copytree(folder, tmp_path / "moved"))))
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    folder_in(tmp_path, SFT_POLICY).check_config(based(linked))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    changed = r"contents of base: '\w{12}' -> '\w{12}'"
    with pytest.raises(UserError, match=f"the config of .*sft-policy changed \\({changed}\\)"):
        folder_in(tmp_path, SFT_POLICY).check_config(based(folder))
    with pytest.raises(UserError, match=f"sft-policy was made with another config \\({changed}\\)"):
        folder_in(tmp_path, RL_POLICY).check_parents(based(folder))
