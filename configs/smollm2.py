"""A real language model on two CPU cores: SmolLM2-135M-Instruct improves its answers, judged by a public program.

Data      A pair a prompt, of the model's own answers at temperature 1: examples/pairs_of_samples.py. Prompts are turns
          of the user in HH-RLHF (4 to 20 words), each by itself and with a request for few words, or answers do not
          end. 2,800 prompts make 1,653 pairs.
Truth     VADER's compound score (vaderSentiment 3.3.2, MIT; Hutto and Gilbert, ICWSM 2014): how positive an answer
          reads, -1 to 1, in examples/forks/sentiment_judge.py. It shares nothing with the models, which see labels
          alone: a noisy Bradley-Terry draw, sharpness 4, right on 84% of the pairs. An answer of fewer than five words,
          or none, has the lowest grade. It knows neither prompt nor grammar: cheerful nonsense pleases it, and a copy
          of the reference ties.
Command   python launch/tpu_run.py --stage=all --config=configs/smollm2.py --base=checkpoints/smollm2 \\
              --fork=examples/forks/sentiment_judge.py --data.sources pairs:data/smollm2/pairs.jsonl
          How checkpoint and pairs are made: docs/howto/real_model.md.
Hardware  two CPU cores, 10 GiB, two and a half hours. Minutes, measured: drawing the pairs 14; sft 4 and 8; rm policy
          10 (its head 4); rm improver 32 with a quarter of the prompts of its controls (its head 14), 10 more with all;
          rl 6 and 17; improve 17; evaluate 12. Such cores train 220 to 250 tokens a second (0.54 GFLOP a token with
          adapters: forward and backward through 135M weights). A kill costs the updates of one model, or four rounds.
Expect    by the truth, n = 320, one seed: PIT x1 against the policy +33.1 (+25.6 to +40.6), x2 +43.1 (+34.4 to +50.9),
          at temperature 1. What was tried: docs/experiments.md, "A real language model".
Export    is of heads of the last token: --transformer.no-pooled-head.

Tags as in configs/hh_rlhf.py. What is not named below is a default of pit_jax/config.py.
"""

from dataclasses import replace

from pit_jax.config import Config


def get_config() -> Config:
    base = Config()
    return replace(
        base,
        workdir="runs/smollm2",
        data=replace(
            base.data,
            sources=("pairs:data/smollm2/pairs.jsonl",),
            heldout_fraction=0.2,  # of 1,649 pairs: 321 held out, 428 to 456 a fold
            prompt_length=40,  # the turn and the request; 30 more are the template's
            response_length=48,  # as they were drawn
            buckets=2,
        ),
        # A fitted head reads more from the states of all tokens of an answer than from that of the last one.
        transformer=replace(base.transformer, pooled_head=True),
        # LoRA (arXiv 2106.09685) in every matrix: anchor, reward models and samplers share one backbone. Its rates are
        # about ten times those of all weights (Schulman et al., "LoRA Without Regret", 2025 [M]): ten times PIT's 3e-5
        # [S] in SFT; twenty times 1e-5 [M] in RL, whose rounds are few.
        adapter=replace(base.adapter, rank=16),
        sft=replace(
            base.sft,
            policy_steps=40,
            improver_steps=60,
            batch_size=8,
            optimizer=replace(base.sft.optimizer, learning_rate=3e-4),
        ),
        rm=replace(
            base.rm,
            pairs="all",
            fit_head=True,
            policy_steps=40,
            improver_steps=40,
            batch_size=4,
            word_model=1.0,
            negatives=0.3,  # the truth does not look for an end, which its gate asks for
            # Nor does it read the prompt: the answer of another one may be as good, but not better.
            gates=replace(base.rm.gates, min_another=0.0),
            optimizer=replace(base.rm.optimizer, learning_rate=3e-4),
        ),
        rl=replace(
            base.rl,
            # Without a critic, which would have to be learned from nothing in as few rounds.
            policy_algorithm="rloo",
            policy_samples=4,
            improver_algorithm="rloo",
            improver_samples=4,
            policy_rounds=6,
            curriculum=replace(base.rl.curriculum, rounds=(4, 8)),
            batch_size=32,
            epochs=1,
            minibatches=4,
            # The gap model of so few pairs fails a gate; the reward model is right as often.
            reward="difference",
            kl_coef=0.05,  # as in configs/hh_rlhf.py
            evaluate_every=4,
            heldout_prompts=32,
            optimizer=replace(base.rl.optimizer, learning_rate=2e-4),
        ),
        improve=replace(base.improve, rounds=2, temperature=1.0, batch_size=32, stop="best"),
        evaluate=replace(base.evaluate, prompts=320, judges=("sentiment",), temperatures=(1.0,)),
        # Self-Refine's own words are 300 tokens.
        paper=replace(base.paper, ablations=(), temperatures=(1.0,), rounds=2, refine_length=512),
        dpo=replace(base.dpo, steps=60, batch_size=8, optimizer=replace(base.dpo.optimizer, learning_rate=1e-4)),
        checkpoint=replace(base.checkpoint, every=160),
    )
