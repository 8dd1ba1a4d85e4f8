"""The code on the cards of exported models, in transformers and torch alone: the ids and the answers of the product."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pit_jax.config import AdapterConfig, Config, DataConfig
from pit_jax.data.text.templates import IMPROVE_WORDS, REFERENCE_WORDS, Template
from pit_jax.data.text.tokenizers import load_tokenizer
from pit_jax.inference.sampling import Sampling
from pit_jax.recipes.comparison.draw import text_engine
from pit_jax.recipes.export import write, write_adapters
from pit_jax.run.base import load_base, with_base
from pit_jax.run.context import Context
from tests import tiny_checkpoint
from tests.data.text.chat_tokenizers import written
from tests.data.text.published_templates import PUBLISHED
from tests.recipes.test_export import placed, python_of

PROMPTS = ("What is a kind way to say no?", "A stranger", "I say: no", "a (friend)")
REFERENCES = ("Thank you, but I can't.", "It depends", "- a friend,\n- a stranger.", "No!")
TOKENS = 12
FAMILIES = {"qwen-2.5": "joined", "llama-3": "joined", "gemma": "words"}  # chat templates, and kinds of tokenizers


@pytest.fixture(scope="module", params=FAMILIES)
def context(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_mesh: Any) -> Context:
    """A base with the chat template of a family, as the hub's client keeps one."""
    folder = tmp_path_factory.mktemp("hub") / "models--ORG--tiny" / "snapshots" / "0123abc"
    written(folder, FAMILIES[request.param], PUBLISHED[request.param])
    tokenizer = load_tokenizer(folder)
    tiny_checkpoint.write_model(folder, tokenizer.vocab_size, seed=1)  # whose answers differ from each other
    others = {"eos_token_id": [tokenizer.eos_id, tokenizer.vocab_size - 1], "temperature": 0.1}
    (folder / "generation_config.json").write_text(json.dumps(others))
    data: Any = SimpleNamespace(tokenizer=tokenizer, template=Template(tokenizer), response_slot=TOKENS)
    config = replace(Config(), base=str(folder), workdir=str(folder), data=DataConfig(response_length=TOKENS))
    return placed(with_base(config), data, make_mesh(1, 1, 1))


@pytest.fixture(scope="module")
def params(context: Context) -> Any:
    sizes = {"ids": context.data.tokenizer.vocab_size, "rows": context.vocab_size}
    return load_base(context.config, context.mesh, context.key("new tokens"), **sizes)


def test_an_improver_answers_in_transformers_as_here(
    context: Context, params: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """16 of 16: the ids that `apply_chat_template` gives, and the greedy answers."""
    torch = pytest.importorskip("torch")
    write(context, tmp_path / "improver", "improver", params)
    monkeypatch.chdir(tmp_path / "improver")
    namespace: dict[str, Any] = {}
    exec(python_of(Path("README.md")), namespace)
    printed = capsys.readouterr().out.rstrip("\n")
    fast, theirs = namespace["tokenizer"], namespace["model"]
    assert theirs.generation_config.eos_token_id == [
        context.data.tokenizer.eos_id,
        context.data.tokenizer.vocab_size - 1,
    ]
    assert theirs.generation_config.temperature in (None, 1.0), "what the base is drawn with is not ours"

    template, pairs = context.data.template, [(x, y) for x in PROMPTS for y in REFERENCES]
    pairs.append((namespace["prompt"], namespace["reference"]))
    texts = replace(text_engine(context), batch_size=len(pairs))
    with jax.set_mesh(context.mesh):
        (chunk,) = texts.chunks([x for x, _ in pairs])
        drawn = texts.rewrite(
            params, chunk, [template.response(y) for _, y in pairs], jax.random.key(0), Sampling(jnp.float32(0.0))
        )
    assert len({answer.ids for answer in drawn}) > 8
    assert printed == fast.decode(drawn[-1].ids, skip_special_tokens=True)
    for (x, y), answer in zip(pairs, drawn, strict=True):
        message = {"role": "user", "content": x + REFERENCE_WORDS + y + IMPROVE_WORDS}
        ids = fast.apply_chat_template([message], add_generation_prompt=True, return_dict=False)
        assert ids == [*template.improver_prefix(x), *template.response(y), *template.improver_suffix]
        found = theirs.generate(input_ids=torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)[0, len(ids) :]
        assert tuple(found.tolist()) == answer.ids


def test_adapters_name_the_base_as_the_hub_does(context: Context, tmp_path: Path) -> None:
    """Those of a language model; PEFT makes a classifier of a base on the hub with two labels."""
    adapted = replace(context, config=replace(context.config, adapter=AdapterConfig(rank=2)))
    described = {}
    for name, network in (("improver", adapted.language_model), ("gap", adapted.scalar_model)):
        shapes = jax.eval_shape(network.init_adapter, jax.random.key(0))
        params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
        write_adapters(adapted, tmp_path / name, name, params, tmp_path / "base")
        described[name] = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert " from ORG/tiny." in (tmp_path / name / "README.md").read_text()
    named = [(found["base_model_name_or_path"], found["revision"]) for found in described.values()]
    assert named == [("ORG/tiny", "0123abc"), (str(tmp_path / "base"), None)]
