"""Adapters written for PEFT and read by it: the same logits in torch, and the same tensors when it writes them."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from pit_jax.config import AdapterConfig, MeshConfig
from pit_jax.model.networks import LanguageModel
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import architecture, family_of
from pit_jax.model.pretrained.peft import peft_config, peft_tensors
from pit_jax.model.rows import Sequences
from pit_jax.parallel.mesh import make_mesh
from pit_jax.training.state import joined

torch = pytest.importorskip("torch", reason="the reference implementation needs torch, a test dependency")
peft = pytest.importorskip("peft", reason="the reader of these folders is a test dependency")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # in peft

VOCAB = 61
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 12, "sliding_window": 5},
    "gpt_neox": {},
    "phi3": {"num_key_value_heads": 2},
    "glm4": {"num_key_value_heads": 2, "head_dim": 12},
}
ADAPTERS = {
    "all": AdapterConfig(rank=3, alpha=12.0),
    "some": AdapterConfig(rank=2, alpha=2.0, targets=("query", "value", "up")),
}


@pytest.mark.parametrize("targets", ADAPTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_computes_the_same_and_writes_the_same(family: str, targets: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family]})
    base, folder = tmp_path / "base", tmp_path / "adapters"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(base)
    found = transformers.AutoConfig.from_pretrained(base).to_dict()
    ours, adapter = architecture(found), ADAPTERS[targets]
    model, entries = LanguageModel(ours, VOCAB, adapter), family_of(found).entries(ours)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    tied = "lm_head.weight" if ours.tied else None
    params = weights.load(base, entries, shapes, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)), tied=tied)
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda s: jnp.asarray(rng.normal(0, 0.2, s.shape), jnp.float32),
        jax.eval_shape(model.init_adapter, jax.random.key(0)),
    )
    updates = adapters["blocks"]["adapter"]
    folder.mkdir()
    save_file(dict(peft_tensors(updates, entries)), folder / "adapter_model.safetensors")
    described = peft_config(adapter, updates, entries, base=str(base), scalar=False)
    (folder / "adapter_config.json").write_text(json.dumps(described))

    plain = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    tokens_BL = rng.integers(0, VOCAB, (2, 11)).astype(np.int32)
    with torch.no_grad():
        without = plain(torch.tensor(tokens_BL)).logits.numpy()
        theirs = peft.PeftModel.from_pretrained(plain, folder).eval()
        expected = theirs(torch.tensor(tokens_BL)).logits.numpy()
    rows = Sequences.alone(jnp.ones(tokens_BL.shape, jnp.int32))
    logits = jax.jit(lambda params: model.logits(params, model.hidden(params, jnp.asarray(tokens_BL), rows)))
    assert np.abs(np.asarray(logits(joined(params, adapters))) - expected).max() < 1e-4
    assert np.abs(expected - without).max() > 0.1, "the adapters do something"

    theirs.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    written = load_file(folder / "adapter_model.safetensors")
    assert again.keys() == written.keys()
    assert all(np.array_equal(again[name], written[name]) for name in written)
