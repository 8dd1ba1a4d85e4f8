"""Checkpoints of every family, written by transformers with random weights: logits and greedy tokens beside torch's.

    python -m benchmarks.parity
    python -m benchmarks.parity --only qwen3_moe

prints a row a case: the largest |difference| of the logits of three left-padded rows, and how many of 3 x 64 tokens,
drawn greedily with a cache, are those that torch draws without one. It needs torch, and a few minutes.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import transformers
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from benchmarks.results import keep, parser_of
from pit_jax.batch import DecodeSpec
from pit_jax.config import MeshConfig
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import LanguageModel
from pit_jax.model.pretrained import weights
from pit_jax.model.pretrained.families import WITH_IMAGES, architecture, family_of
from pit_jax.model.pretrained.tensors import Entry
from pit_jax.model.rows import Sequences
from pit_jax.parallel.mesh import make_mesh

VOCAB, LENGTH, NEW = 97, 24, 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
SMALL = {**SIZES, "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 40}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
IMAGES = {
    **{"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 8},
    **{"image_size": 28, "patch_size": 14, "model_type": "pixtral"},
}
BIASES = {"attention_bias": True, "mlp_bias": True}
# Each has an effect in some families; the classes of the others pass over it.
OF_OTHERS: dict[str, Any] = {"sliding_window": 6, "use_sliding_window": True, "attn_logit_softcapping": 5.0}
HALF: dict[str, Any] = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
BASE_ALONE = "the base model alone"  # saved without its output, which is tied
CASES: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "llama scaled, biased, tied": {
        "num_key_value_heads": 4,
        "head_dim": 20,
        "tie_word_embeddings": True,
        "rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64},
        **BIASES,
    },
    f"llama, {BASE_ALONE}": {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "llama linear": {
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    },
    "mistral": {"num_key_value_heads": 2, "sliding_window": 7},
    "mistral without a window": {"num_key_value_heads": 2, "sliding_window": None, "head_dim": 16},
    "qwen2": {"num_key_value_heads": 2},
    "qwen2 with windows": {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
    "qwen3 biased": {"num_key_value_heads": 4, "head_dim": 8, "attention_bias": True, "tie_word_embeddings": True},
    "gemma": {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 6,
        "query_pre_attn_scalar": 24,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma2 without caps": {
        "num_key_value_heads": 4,
        "head_dim": 16,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": 6, "num_hidden_layers": 7},
    "gemma3_text scaled": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 5,
        "query_pre_attn_scalar": 24,
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_parameters": GEMMA3_ROPE,
    },
    "llama, fields of others": {"num_key_value_heads": 2, **OF_OTHERS, **HALF},
    "mistral, fields of others": {"num_key_value_heads": 2, **OF_OTHERS, **HALF, "use_sliding_window": False},
    "qwen3, fields of others": {"num_key_value_heads": 2, "head_dim": 16, **HALF, "attn_logit_softcapping": 5.0},
    "gemma, fields of others": {"num_key_value_heads": 1, "head_dim": 16, **OF_OTHERS, **HALF},
    "gemma3_text, fields of others": {
        "num_key_value_heads": 2,
        "head_dim": 16,
        **OF_OTHERS,
        "final_logit_softcapping": 3.0,
    },
    "gemma3 with images": {
        "text_config": {
            **{**SMALL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 6, "sliding_window_pattern": 2},
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        "vision_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1},
    },
    "mistral3 with images": {
        "text_config": {**SMALL, "model_type": "mistral", "num_key_value_heads": 2, "head_dim": 8},
        "vision_config": IMAGES,
        "tie_word_embeddings": False,
    },
    "ministral3": {
        **{**SMALL, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 9, "tie_word_embeddings": True},
        "rope_parameters": {
            **{**YARN, "mscale": 1.0, "mscale_all_dim": 2.0, "llama_4_scaling_beta": 0.4},
            **{"factor": 16.0, "original_max_position_embeddings": 16, "max_position_embeddings": 256},
        },
    },
    "qwen2 yarn": {**SMALL, "num_key_value_heads": 2, "rope_parameters": YARN},
    "llama yarn, from turn to turn": {
        **SMALL,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": {**YARN, "truncate": False, "beta_fast": 4.0, "attention_factor": 1.3},
    },
    "qwen3_moe": {**SMALL, **EXPERTS, "num_key_value_heads": 2, "head_dim": 8, "norm_topk_prob": True},
    "qwen3_moe with windows": {
        **{**SMALL, **EXPERTS, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 5, "num_experts_per_tok": 1},
        **{"use_sliding_window": True, "sliding_window": 6},
    },
    "smollm3": {**SMALL, "num_key_value_heads": 2, "no_rope_layers": [1, 0]},
    "smollm3 with windows, yarn": {
        **SMALL,
        "num_key_value_heads": 2,
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": 6,
        "rope_parameters": YARN,
        **BIASES,
    },
    "phi3": {**SMALL, "num_key_value_heads": 2, "sliding_window": 7},
    "phi3 longrope": {
        **{**SMALL, "num_key_value_heads": 2, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 128},
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5, 2.5], "long_factor": [2.0, 4.0, 8.0]},
    },
    "granite": {
        **{**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True},
        **{"embedding_multiplier": 3.0, "logits_scaling": 0.4, "residual_multiplier": 0.4},
        "attention_multiplier": 0.2,
    },
    "olmo2": {**SMALL, "num_key_value_heads": 2},
    "glm4": {**SMALL, "num_key_value_heads": 2, "head_dim": 12},
    "gpt_neox": {"rotary_pct": 0.25, "hidden_size": 64},
    "gpt_neox, an odd share of a head": {"rotary_pct": 0.25},
    "gpt_neox in series, without biases": {"rotary_pct": 1.0, "use_parallel_residual": False, "attention_bias": False},
}


def family_in(case: str) -> str:
    return case.split()[0].strip(",")


@dataclass
class Checkpoint:
    """A folder that transformers wrote, its torch model, and what is made of it here."""

    folder: Path
    torch_model: Any
    model: LanguageModel
    entries: list[Entry]
    params: Any

    @cached_property
    def logits(self) -> tuple[np.ndarray, np.ndarray]:
        """(ours, torch's) of `prompts` at the slots that count, [slots, V]."""
        tokens_BL, mask_BL = prompts()
        expected_BLV = self.torch_model(**_torch_inputs(tokens_BL, mask_BL, positions=True)).logits.detach().numpy()
        rows, model = Sequences.alone(jnp.asarray(mask_BL.astype(np.int32))), self.model

        @jax.jit
        def logits(params: Any) -> jax.Array:
            return model.logits(params, model.hidden(params, jnp.asarray(tokens_BL.astype(np.int32)), rows))

        return np.asarray(jax.device_get(logits(self.params)))[mask_BL], expected_BLV[mask_BL]

    @cached_property
    def greedy(self) -> tuple[np.ndarray, np.ndarray]:
        """(ours, torch's) tokens behind `prompts`, NEW a row, beyond every window."""
        tokens_BL, mask_BL = prompts()
        # Without a cache: that of transformers keeps a window which the config of a Llama names and its layers ignore.
        asked = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "use_cache": False}
        expected = self.torch_model.generate(**_torch_inputs(tokens_BL, mask_BL, positions=False), **asked)
        engine = Engine(self.model, DecodeSpec(NEW, eos_id=VOCAB, pad_id=0, suffix=()))  # an EOS never drawn
        prompt = jnp.asarray(tokens_BL.astype(np.int32)), jnp.asarray(mask_BL)
        found = engine.complete(self.params, *prompt, jax.random.key(0), Sampling(temperature=0.0), 0)
        return np.asarray(found.tokens_BT), expected[:, LENGTH:].numpy()


def written(case: str, folder: Path, mesh: Mesh) -> Checkpoint:
    """The checkpoint of a case in an empty folder, and its parameters on the mesh."""
    import torch

    torch.manual_seed(0)
    model_type = family_in(case)
    sizes = {} if model_type in WITH_IMAGES else SIZES
    described = transformers.AutoConfig.for_model(model_type, **{**sizes, **CASES[case]})
    kind = "AutoModelForImageTextToText" if model_type in WITH_IMAGES else "AutoModelForCausalLM"
    reference = getattr(transformers, kind).from_config(described, attn_implementation="eager").eval()
    for parameter in reference.parameters():  # biases start at 0 and norms at 1 or 0: a slip would not show
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.1, 0.3)
    (reference.base_model if BASE_ALONE in case else reference).save_pretrained(folder)
    found = transformers.AutoConfig.from_pretrained(folder).to_dict()
    config = architecture(found)
    model, entries = LanguageModel(config, config.vocab_rows), family_of(found).entries(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = weights.load(folder, entries, shapes, mesh, tied="lm_head.weight" if config.tied else None)
    return Checkpoint(folder, reference, model, entries, params)


def prompts() -> tuple[np.ndarray, np.ndarray]:
    """Left-padded rows [3, LENGTH] and their mask."""
    tokens_BL = np.random.default_rng(0).integers(3, VOCAB, (3, LENGTH))
    return tokens_BL, np.arange(LENGTH)[None] >= np.array([0, 5, 11])[:, None]


def _torch_inputs(tokens_BL: np.ndarray, mask_BL: np.ndarray, *, positions: bool) -> dict[str, Any]:
    import torch

    named = {"input_ids": tokens_BL, "attention_mask": mask_BL.astype(np.int64)}
    if positions:
        named["position_ids"] = np.maximum(mask_BL.cumsum(axis=1) - 1, 0)
    return {name: torch.tensor(value) for name, value in named.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--only", default="", help="cases whose name begins so")
    given = parser.parse_args(arguments)
    table = Table("case", "largest |difference|", "logits' spread", "greedy tokens equal")
    mesh, figures = make_mesh(MeshConfig()), {}
    for case in (name for name in CASES if name.startswith(given.only)):
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = written(case, Path(folder), mesh)
            (ours, theirs), (drawn, expected) = checkpoint.logits, checkpoint.greedy
        difference, equal = float(np.abs(ours - theirs).max()), int((drawn == expected).sum())
        figures[case] = {"difference": difference, "spread": float(theirs.std()), "equal": equal, "of": expected.size}
        table.add_row(case, f"{difference:.1e}", f"{theirs.std():.2f}", f"{equal}/{expected.size}")
    Console().print(table)
    keep(given.results, "parity", figures)


if __name__ == "__main__":
    main()
