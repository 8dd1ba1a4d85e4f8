"""The smallest whole run: every stage for a few updates, with checkpoints often enough to be killed between them.

Command   python launch/tpu_run.py --stage=all --config=configs/micro.py --workdir=runs/micro
          Tests and `python -m pit_jax.fork check` run it.
Hardware  two CPU cores: two or three minutes, nearly all of them compiling.
Expect    nothing: eight updates make no gap model. RL runs on it all the same.
"""

from dataclasses import replace

from pit_jax.config import Config


def get_config() -> Config:
    base = Config()
    return replace(
        base,
        workdir="runs/micro",
        data=replace(base.data, world_pairs=900, heldout_fraction=0.1, prompt_length=32, response_length=64),
        transformer=replace(
            base.transformer, width=16, query_heads=2, kv_heads=1, head_size=8, ffn=32, pooled_head=True
        ),
        sft=replace(base.sft, policy_steps=8, improver_steps=8, batch_size=16, accumulate=2),
        rm=replace(base.rm, policy_steps=8, improver_steps=8, word_model=1.0, batch_size=16),
        rl=replace(
            base.rl,
            policy_rounds=2,
            curriculum=replace(base.rl.curriculum, rounds=(2, 2), anchor="previous"),
            batch_size=16,
            minibatches=2,
            evaluate_every=2,
            heldout_prompts=16,
            kl_target=0.5,
            kl_horizon=100,
            ignore_gates=True,
        ),
        improve=replace(base.improve, rounds=2, batch_size=16),
        evaluate=replace(base.evaluate, prompts=16, temperatures=(0.8,), resamples=50),
        dpo=replace(base.dpo, steps=4, batch_size=16),
        spa=replace(base.spa, gold_share=0.1, slices=(1.0, 1.0), strengths=(0.5, 0.25), batch_size=16, window=20),
        paper=replace(
            base.paper,
            ablations=("first-only", "direct-rlhf", "score-difference"),
            temperatures=(0.5, 1.0),
            rounds=2,
        ),
        checkpoint=replace(base.checkpoint, every=2),
    )
