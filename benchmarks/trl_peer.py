"""Passes of TRL's trainers over rows of given lengths, beside this project: a Llama of a shape.

    .venv-trl/bin/python -m benchmarks.trl_peer '{"work": "sft", "threads": 2, "shape": [128, 4, 4, 344], ..}'

See benchmarks/peers.py. It imports nothing of the project. Settings are TRL's own, but for two that a CPU and a fair
comparison ask for: float32, and activations are kept.
"""

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.torch_peer import config_of


def settings(job: dict[str, Any], folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job["batch"],
        "num_train_epochs": 1,
        "max_length": None,
        "bf16": False,
        "activation_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def trainer_of(job: dict[str, Any], folder: str) -> Any:
    """A trainer over rows of (prompt, chosen, rejected) tokens."""
    rng, vocabulary = np.random.default_rng(0), job["vocabulary"]

    def ids(count: int) -> list[int]:
        found: list[int] = rng.integers(5, vocabulary, count).tolist()
        return found

    words = {f"w{number}": number for number in range(vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w3")))
    tokenizer.pad_token, tokenizer.eos_token = "w0", "w2"
    if job["work"] == "sft":
        rows = [
            {"input_ids": ids(prompt + chosen), "completion_mask": [0] * prompt + [1] * chosen}
            for prompt, chosen, _ in job["lengths"]
        ]
        kept = trl.SFTConfig(**settings(job, folder))
        model: Any = LlamaForCausalLM(config_of(job))
        return trl.SFTTrainer(model, args=kept, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    pairs = [
        {"chosen_ids": (start := ids(prompt)) + ids(chosen), "rejected_ids": start + ids(rejected)}
        for prompt, chosen, rejected in job["lengths"]
    ]
    model = LlamaForSequenceClassification(config_of(job))
    given = trl.RewardConfig(**settings(job, folder))
    return trl.RewardTrainer(model, args=given, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer)


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(job, folder)
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
        print(json.dumps(versions), flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            trainer.train()
            print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
