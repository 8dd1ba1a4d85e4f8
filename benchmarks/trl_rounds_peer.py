"""Rounds of TRL's PPOTrainer or GRPOTrainer, beside this project: a Llama of a shape as every model.

    .venv-trl/bin/python -m benchmarks.trl_rounds_peer '{"work": "grpo", "threads": 2, "config": {..}, ..}'

See benchmarks/peers.py. It imports nothing of the project. Settings are TRL's own, but for those that a CPU and a fair
comparison ask for: float32, kept activations, a KL to an anchor, and updates of as many rows as there are answers.
"""

import copy
from typing import Any

import numpy as np
import trl
from datasets import Dataset
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from benchmarks.torch_peer import config_of
from benchmarks.trl_peer import serve_trainer, settings, tokenizer_of


def updating(job: dict[str, Any], folder: str) -> dict[str, Any]:
    """Settings of an update of all rows, in pieces."""
    return {
        **settings(folder),
        "per_device_train_batch_size": job["piece"],
        "gradient_accumulation_steps": job["rows"] // job["piece"],
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
    }


def left_padding(job: dict[str, Any]) -> Any:
    tokenizer = tokenizer_of(job["config"]["vocab_size"])
    tokenizer.padding_side = "left"
    return tokenizer


def prompts_of(job: dict[str, Any]) -> list[list[int]]:
    shape = job["rows"] // job["samples"], job["prompt"]
    tokens: list[list[int]] = np.random.default_rng(0).integers(5, job["config"]["vocab_size"], shape).tolist()
    return tokens


def ppo(job: dict[str, Any], folder: str) -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, scorer = LlamaForCausalLM(config_of(job)), LlamaForSequenceClassification(config_of(job))
    given = PPOConfig(
        **updating(job, folder),
        num_ppo_epochs=job["epochs"],
        total_episodes=job["rows"],
        response_length=job["answer"],
        temperature=1.0,
        kl_coef=job["kl"],
        num_sample_generations=0,
    )
    return PPOTrainer(
        args=given,
        processing_class=left_padding(job),
        model=policy,
        ref_model=copy.deepcopy(policy),
        reward_model=scorer,
        value_model=copy.deepcopy(scorer),
        train_dataset=Dataset.from_list([{"input_ids": prompt} for prompt in prompts_of(job)]),
    )


def grpo(job: dict[str, Any], folder: str) -> Any:
    scorer = LlamaForSequenceClassification(config_of(job))
    LlamaForCausalLM(config_of(job)).save_pretrained(f"{folder}/policy")  # the anchor is loaded from there once more
    given = trl.GRPOConfig(
        **updating(job, folder),
        num_generations=job["samples"],
        num_iterations=job["epochs"],
        max_steps=job["epochs"],
        max_completion_length=job["answer"],
        generation_kwargs={"min_new_tokens": job["answer"]},
        beta=job["kl"],
        model_init_kwargs={"dtype": "float32"},
    )
    prompts = [{"prompt": "".join(f"w{number} " for number in prompt)} for prompt in prompts_of(job)]
    return trl.GRPOTrainer(
        model=f"{folder}/policy",
        args=given,
        reward_funcs=scorer,
        train_dataset=Dataset.from_list(prompts),
        processing_class=left_padding(job),
        reward_processing_classes=left_padding(job),
    )


if __name__ == "__main__":
    serve_trainer(lambda job, folder: {"ppo": ppo, "grpo": grpo}[job["work"]](job, folder))
