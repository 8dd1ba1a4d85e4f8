"""Rounds of TRL's PPOTrainer or GRPOTrainer, beside this project: a Llama of a shape as every model.

    .venv-trl/bin/python -m benchmarks.trl_rounds_peer '{"work": "grpo", "threads": 2, "shape": [128, 4, 4, 344], ..}'

See benchmarks/peers.py. It imports nothing of the project. Settings are TRL's own, but for those that a CPU and a fair
comparison ask for: float32, kept activations, a KL to an anchor, and updates of as many rows as there are answers.
"""

import copy
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
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.torch_peer import config_of


def settings(job: dict[str, Any], folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "per_device_train_batch_size": job["piece"],
        "gradient_accumulation_steps": job["rows"] // job["piece"],
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
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
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, padding_side="left")
    tokenizer.pad_token, tokenizer.eos_token = "w0", "w2"
    return tokenizer


def ppo(job: dict[str, Any], folder: str) -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, scorer = LlamaForCausalLM(config_of(job)), LlamaForSequenceClassification(config_of(job))
    tokens = np.random.default_rng(0).integers(5, job["vocabulary"], (job["rows"], job["prompt"]))
    given = PPOConfig(
        **settings(job, folder),
        num_ppo_epochs=job["epochs"],
        total_episodes=job["rows"],
        response_length=job["answer"],
        temperature=1.0,
        kl_coef=job["kl"],
        num_sample_generations=0,
    )
    return PPOTrainer(
        args=given,
        processing_class=tokenizer_of(job["vocabulary"]),
        model=policy,
        ref_model=copy.deepcopy(policy),
        reward_model=scorer,
        value_model=copy.deepcopy(scorer),
        train_dataset=Dataset.from_list([{"input_ids": row} for row in tokens.tolist()]),
    )


def grpo(job: dict[str, Any], folder: str) -> Any:
    scorer = LlamaForSequenceClassification(config_of(job))
    tokens = np.random.default_rng(0).integers(5, job["vocabulary"], (job["rows"] // job["samples"], job["prompt"]))
    LlamaForCausalLM(config_of(job)).save_pretrained(f"{folder}/policy")  # the anchor is loaded from there once more
    given = trl.GRPOConfig(
        **settings(job, folder),
        num_generations=job["samples"],
        num_iterations=job["epochs"],
        max_steps=job["epochs"],
        max_completion_length=job["answer"],
        generation_kwargs={"min_new_tokens": job["answer"]},
        beta=job["kl"],
        model_init_kwargs={"dtype": "float32"},
    )
    tokenizer = tokenizer_of(job["vocabulary"])
    prompts = [{"prompt": "".join(f"w{number} " for number in row)} for row in tokens.tolist()]
    return trl.GRPOTrainer(
        model=f"{folder}/policy",
        args=given,
        reward_funcs=scorer,
        train_dataset=Dataset.from_list(prompts),
        processing_class=tokenizer,
        reward_processing_classes=tokenizer_of(job["vocabulary"]),
    )


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = {"ppo": ppo, "grpo": grpo}[job["work"]](job, folder)
        versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
        print(json.dumps(versions), flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            trainer.train()
            print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
