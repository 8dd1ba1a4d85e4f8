"""An update by Google's tunix beside this project: its Llama, all of it trained by the jitted step of PeftTrainer.

    .venv-tunix/bin/python -m benchmarks.tunix_peer '{"threads": 2, "rows": 8, "length": 256, "config": {..}, ..}'

See benchmarks/peers.py. It imports nothing of the project. Weights and products are float32.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from tunix.models.llama3.model import Llama3, ModelConfig
from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig
from tunix.sft.utils import build_positions_from_mask, make_causal_attn_mask

from benchmarks.serving import serve


def training(job: dict[str, Any]) -> Callable[[], None]:
    """An update of next tokens by AdamW with clipping."""
    shape = job["config"]
    config = ModelConfig(
        num_layers=shape["num_hidden_layers"],
        vocab_size=shape["vocab_size"],
        embed_dim=shape["hidden_size"],
        hidden_dim=shape["intermediate_size"],
        num_heads=shape["num_attention_heads"],
        head_dim=shape["hidden_size"] // shape["num_attention_heads"],
        num_kv_heads=shape["num_key_value_heads"],
        rope_theta=10_000,
        norm_eps=1e-5,
        weight_tying=True,
    )
    model = Llama3(config, rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))
    trainer = PeftTrainer(model, optimizer, TrainingConfig(eval_every_n_steps=1_000_000))
    step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)
    tokens_BL = jax.random.randint(jax.random.key(1), (job["rows"], job["length"]), 5, shape["vocab_size"])
    mask_BL = jnp.ones_like(tokens_BL, bool)
    given = {
        "input_tokens": tokens_BL,
        "input_mask": mask_BL,
        "positions": build_positions_from_mask(mask_BL),
        "attention_mask": make_causal_attn_mask(mask_BL),
    }

    def update() -> None:
        jax.block_until_ready((step(given), nnx.state(model)))

    return update


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    serve({name: version(name) for name in ("google-tunix", "jax", "flax")}, training(job))
