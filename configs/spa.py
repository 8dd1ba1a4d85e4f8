"""SPA with its paper's settings (arXiv 2406.04412): a few gold pairs of UltraFeedback, then the model's own.

Data      HuggingFaceH4/ultrafeedback_binarized from the hub. The paper's is argilla/ultrafeedback-binarized-
          preferences-cleaned, shuffled, 2K gold pairs, then 8K, 20K and 30K prompts [V]; here a third of the prompts,
          the fold `rm`, is the whole, cut by hash in the same proportions, and another third is what SFT learns from.
Command   python launch/tpu_run.py --stage=sft --model=policy --config=configs/spa.py --base=checkpoints/MODEL
          python launch/tpu_run.py --stage=spa --config=configs/spa.py --base=checkpoints/MODEL
          python launch/tpu_run.py --stage=spa-tables --config=configs/spa.py --base=checkpoints/MODEL
          On several chips add --mesh.fsdp=CHIPS.
Model     The paper starts from alignment-handbook/zephyr-7b-sft-full, which is SFT on UltraChat [V]: with a base that
          is fine-tuned already, a few updates of SFT (--sft.policy-steps) are enough.
Hardware  not run here. The paper: four A6000, 5 to 6 hours for 10,000 prompts [V].
Expect    not measured here. The paper, AlpacaEval 2.0, length-controlled win rate: SFT 7.58, DPO on the gold pairs
          9.03, SPA after three iterations 15.39, with 3.3% of the labels [V].

Tags as in configs/hh_rlhf.py.
"""

from dataclasses import replace

from pit_jax.config import Config
from pit_jax.preferences import OptimizerConfig


def get_config() -> Config:
    base = Config()
    return replace(
        base,
        workdir="runs/spa",
        data=replace(
            base.data,
            sources=("ultrafeedback:hub",),
            prompt_length=1024,  # [V]
            response_length=1024,  # 2,048 in all [V]; samples of the paper have at most 300 new tokens [V]
            buckets=4,  # ours
        ),
        transformer=replace(base.transformer, dtype="bfloat16", frozen_dtype="bfloat16", remat="full"),  # bf16 [V]
        sft=replace(
            base.sft,
            policy_steps=150,  # 1 epoch [V] of a third of the prompts
            batch_size=128,  # [V]
            optimizer=replace(base.sft.optimizer, learning_rate=2e-5, warmup=0.1),  # cosine, warm-up 10% [V]
        ),
        spa=replace(
            base.spa,
            gold_share=0.033,  # 2K of 60K [V]
            slices=(8.0, 20.0, 30.0),  # [V]
            seed_epochs=0,  # 3 below 2,000 pairs, else 1 [V, its program]
            epochs=1,  # [V]
            samples=2,  # [V]
            temperature=0.7,  # with top_p 1.0 [V]
            labels="sft",  # judged against the SFT model, trained against the model before [V]
            beta=0.1,  # [V]; 0.01 for Llama-3 and Phi-3 [V]
            alpha=0.1,  # [V]
            noise_share=0.1,  # [V]
            window=50,  # [V]
            noise_after=0.2,  # [V]
            strengths=(0.5, 0.25, 0.125),  # [V]; its program as released has 0 for all [V]
            batch_size=32,  # [V]
            optimizer=OptimizerConfig(
                learning_rate=5e-7,  # [V]; 1e-5 for Llama-3 and Phi-3, 5e-6 for Phi-2 [V]
                schedule="cosine",  # [V]
                warmup=0.1,  # [V]
                final=0.0,  # [I]: what a cosine ends with there
                weight_decay=0.0,  # [I]: the default there
                beta2=0.999,  # [I]: the default there
            ),
        ),
        dpo=replace(
            base.dpo,
            steps=600,  # 1 epoch [V] of the fold in batches of 32
            optimizer=replace(base.dpo.optimizer, learning_rate=5e-7, schedule="cosine"),  # [V]
        ),
        improve=replace(base.improve, batch_size=64),  # ours; the prompts that are answered together
    )
