"""Tokens drawn by vLLM, or by transformers' generate, on the CPU beside this project: a Llama with random weights.

    .venv-vllm/bin/python -m benchmarks.vllm_peer '{"by": "vllm", "threads": 2, "rows": 32, "config": {..}, ..}'

See benchmarks/peers.py. It imports nothing of the project. vLLM compiles its layers, and has one process with as many
threads as it is told, each on a core of its own: left alone it keeps one core of two for its scheduler. It starts every
prompt anew, without what it knows of earlier ones.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any


def settle(threads: int) -> None:
    """What has to be known before torch is imported."""
    settings = {"OMP_NUM_THREADS": threads, "OMP_PROC_BIND": "true", "HF_HUB_OFFLINE": 1}
    vllm = {"VLLM_ENABLE_V1_MULTIPROCESSING": 0, "VLLM_CPU_KVCACHE_SPACE": 1, "VLLM_LOGGING_LEVEL": "ERROR"}  # GiB
    os.environ.update({name: str(value) for name, value in {**settings, **vllm}.items()})


def config_of(job: dict[str, Any]) -> Any:
    from transformers import LlamaConfig

    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return LlamaConfig(**job["config"], **ids, architectures=["LlamaForCausalLM"], tie_word_embeddings=True)


def by_vllm(job: dict[str, Any], prompts: list[list[int]]) -> Callable[[], None]:
    from vllm import LLM, SamplingParams

    with tempfile.TemporaryDirectory() as folder:
        config_of(job).save_pretrained(folder)
        model = LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype=job["dtype"],
            max_model_len=job["length"] + job["tokens"],
            max_num_seqs=job["rows"],
            enable_prefix_caching=False,
        )
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    sampling = SamplingParams(temperature=1.0, max_tokens=job["tokens"], ignore_eos=True, detokenize=False)

    def draw() -> None:
        for found in model.generate(asked, sampling, use_tqdm=False):
            assert len(found.outputs[0].token_ids) == job["tokens"]

    return draw


def by_transformers(job: dict[str, Any], prompts: list[list[int]]) -> Callable[[], None]:
    import torch
    from transformers import LlamaForCausalLM

    model, tokens_BL = LlamaForCausalLM(config_of(job)).eval().to(getattr(torch, job["dtype"])), torch.tensor(prompts)
    new = job["tokens"]

    def draw() -> None:
        with torch.no_grad():
            model.generate(tokens_BL, do_sample=True, top_k=0, min_new_tokens=new, max_new_tokens=new)

    return draw


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    settle(job["threads"])
    import numpy as np

    prompts = np.random.default_rng(0).integers(5, job["config"]["vocab_size"], (job["rows"], job["length"])).tolist()
    draw = {"vllm": by_vllm, "transformers": by_transformers}[job["by"]](job, prompts)
    names = {"vllm": "vllm-cpu", "torch": "torch", "transformers": "transformers"}
    print(json.dumps({name: version(package) for name, package in names.items()}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        draw()
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
