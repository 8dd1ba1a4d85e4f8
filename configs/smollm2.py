"""A real language model improves its answers on two CPU cores: SmolLM2-135M-Instruct, judged by a public program.

Data      A pair a prompt, of the model's own answers at temperature 1: examples/pairs_of_samples.py. Prompts are turns
          of the user in HH-RLHF (4 to 20 words), each by itself and with a request for few words, or answers do not
          end. 2,800 prompts make about 1,800 pairs.
Truth     VADER's compound score (vaderSentiment 3.3.2, MIT; Hutto and Gilbert, ICWSM 2014): how positive an answer
          reads, -1 to 1, in examples/forks/sentiment_judge.py. It shares nothing with the models, which see labels
          alone: a noisy Bradley-Terry draw, sharpness 4. An answer of fewer than five words, or none, has the lowest
          grade. It knows neither prompt nor grammar: cheerful nonsense pleases it, and a copy of the reference ties.
Command   python launch/tpu_run.py --stage=all --config=configs/smollm2.py --base=checkpoints/smollm2 \\
              --fork=examples/forks/sentiment_judge.py --data.sources pairs:data/smollm2/pairs.jsonl
          How checkpoint and pairs are made: docs/howto/real_model.md.
Hardware  two CPU cores, 8 GiB: on paper three and a half hours on cores that do other work too; idle ones take less. A
          kill costs the 30 updates, or 4 rounds, since a checkpoint. Such cores train 90 tokens a second (20 s for 8
          rows of 224 with adapters: forward and backward through 135M weights, 0.54 GFLOP a token), read 180 (forward,
          0.27), train 112 and read 225 where the output is a score (no logits, a fifth of the weights less), and draw
          60. Mean widths, padded: policy 88, improver 141, an answer and its prompt 97, a gap tree (two references,
          four answers) 290; in RL the slots, 120 and 191. An answer has 28 tokens. 326 pairs are held out. Minutes:
            sft policy     updates 40 x 8 x 88 / 90 = 5, held-out rows twice 326 x 88 / 180 = 5                    10
            sft improver   updates 60 x 8 x 141 / 90 = 13, held-out rows twice 326 x 141 / 180 = 8                 21
            rm policy      updates 40 x 16 x 97 / 112 = 9, held-out rows twice 652 x 97 / 225 = 9                  18
            rm improver    updates 60 x 8 x 290 / 112 = 21, held-out rows three times 326 x 290 / 225 = 21,
                           controls 4 of 256 in both orders, 2,048 x 145 / 225 = 22                                64
            rl policy      6 rounds of 32: drawn 18 s, anchor 21, reward 17, update 43 = 10; held-out thrice = 3   13
            rl improver    12 rounds of 32: drawn 26 s, anchor 34, gap and its zero 54, update 68 = 36; held-out   45
            evaluate       four systems of 320: written 10, their prompts read 13; gaps 9, gap on outputs 13       45
Expect    not measured yet. PIT x1 against the policy by `sentiment` at temperature 1, n = 320: half an interval of 95%
          is about 11 points. Gates that fail (rm.gates.*) end the run before the improver's RL, by name.

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
            heldout_fraction=0.2,  # of 1,700 pairs: 340 held out, 450 a fold, one pass of the longer trainings below
            prompt_length=40,  # the turn and the request; 30 more are the template's
            response_length=48,  # as they were drawn
            buckets=2,
        ),
        # LoRA (arXiv 2106.09685) in every matrix: anchor, reward models and samplers share one backbone. Its rates are
        # about ten times those of all weights (Schulman et al., "LoRA Without Regret", 2025 [M]): ten times PIT's 3e-5
        # [S] in SFT, and ten times 1e-5 [M] in RL.
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
            policy_steps=120,
            improver_steps=160,
            batch_size=4,
            word_model=1.0,
            negatives=0.3,  # the truth knows neither the prompt nor an end; the gates ask for both
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
            gap="both-orders",
            kl_coef=0.05,  # as in configs/hh_rlhf.py
            evaluate_every=4,
            heldout_prompts=32,
            optimizer=replace(base.rl.optimizer, learning_rate=1e-4),
        ),
        improve=replace(base.improve, rounds=2, temperature=1.0, batch_size=32, stop="best"),
        evaluate=replace(base.evaluate, prompts=320, judges=("sentiment",), temperatures=(1.0,)),
        # Self-Refine's own words are 300 tokens.
        paper=replace(base.paper, ablations=(), temperatures=(1.0,), rounds=2, refine_length=512),
        dpo=replace(base.dpo, steps=60, batch_size=8, optimizer=replace(base.dpo.optimizer, learning_rate=1e-4)),
        checkpoint=replace(base.checkpoint, every=160),
    )
