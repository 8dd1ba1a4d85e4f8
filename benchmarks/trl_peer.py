"""Passes of TRL's trainers over rows of given lengths, beside this project: a Llama of a shape.

    .venv-trl/bin/python -m benchmarks.trl_peer '{"work": "sft", "threads": 2, "config": {..}, ..}'

See benchmarks/peers.py. It imports nothing of the project. Settings are TRL's own, but for two that a CPU and a fair
comparison ask for: float32, and activations are kept.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.serving import serve
from benchmarks.torch_peer import config_of


def settings(folder: str) -> dict[str, Any]:
    """Of every trainer: float32, on the CPU, and nothing written or shown."""
    return {
        "output_dir": folder,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def tokenizer_of(vocabulary: int) -> Any:
    """A word a token, w0 the padding."""
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(vocabulary)}, unk_token="w3"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.pad_token, tokenizer.eos_token = "w0", "w2"
    return tokenizer


def serve_trainer(trainer_of: Callable[[dict[str, Any], str], Any]) -> None:
    """Passes of the trainer of the job that this process is given."""
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(job, folder)
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
        serve(versions, trainer.train)


def trainer_of(job: dict[str, Any], folder: str) -> Any:
    """A trainer over rows of (prompt, chosen, rejected) tokens."""
    rng, vocabulary = np.random.default_rng(0), job["config"]["vocab_size"]

    def ids(count: int) -> list[int]:
        found: list[int] = rng.integers(5, vocabulary, count).tolist()
        return found

    tokenizer = tokenizer_of(vocabulary)
    given = {
        **settings(folder),
        "per_device_train_batch_size": job["batch"],
        "num_train_epochs": 1,
        "max_length": None,
        "activation_checkpointing": False,
    }
    if job["work"] == "sft":
        rows = [
            {"input_ids": ids(prompt + chosen), "completion_mask": [0] * prompt + [1] * chosen}
            for prompt, chosen, _ in job["lengths"]
        ]
        args = trl.SFTConfig(**given)
        model: Any = LlamaForCausalLM(config_of(job))
        return trl.SFTTrainer(model, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    pairs = [
        {"chosen_ids": (start := ids(prompt)) + ids(chosen), "rejected_ids": start + ids(rejected)}
        for prompt, chosen, rejected in job["lengths"]
    ]
    model = LlamaForSequenceClassification(config_of(job))
    return trl.RewardTrainer(
        model, args=trl.RewardConfig(**given), train_dataset=Dataset.from_list(pairs), processing_class=tokenizer
    )


if __name__ == "__main__":
    serve_trainer(trainer_of)
