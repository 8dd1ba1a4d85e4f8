"""TL;DR comparisons (OpenAI summarisation) with the paper's settings, as far as they are known: PIT's second set.

Data      CarperAI/openai_summarize_comparisons from the Hugging Face hub: prompt (the post, which ends in "TL;DR:"),
          chosen and rejected. 92.9K pairs train, 86.1K are the validation of the set [S], which is not used here: a
          share of the prompts is held out instead. A copy on disk: --data.sources tldr:PATH.
Command   python launch/tpu_run.py --stage=all --config=configs/tldr.py --base=checkpoints/MODEL
Model     As in configs/hh_rlhf.py. Prompts are posts, not dialogues: a base model (Pythia, Llama) is the usual choice.
Memory    per chip: not known before a run, for there is no planner yet; see configs/hh_rlhf.py.
Expect    not measured here. The paper: PIT against the original +20.3 (GPT-4, n = 128), +7.2 (DeBERTa) [V]. The paper
          did not run Self-Refine on this set, whose only instruction is to summarise [S]: read that row so.

Tags as in configs/hh_rlhf.py. What is not named below is as there.
"""

from dataclasses import replace

from pit_jax.config import Config
from pit_jax.shipped import shipped


def get_config() -> Config:
    base = shipped("hh_rlhf")
    return replace(
        base,
        workdir="runs/tldr",
        data=replace(
            base.data,
            sources=("tldr:hub",),
            prompt_length=512,  # [M] for PIT; [V] for the reproduction of TL;DR (arXiv 2403.17031), which cuts posts
            response_length=169,  # ours: the longest in that reproduction [V]; PIT had 512 [M]
        ),
        # One epoch [S] of 29,400 pairs a fold in batches of 128 (ours; [V] in the reproduction).
        sft=replace(base.sft, policy_steps=230, improver_steps=230),
        # Unknown; one epoch in batches of 64 is ours ([V] in the reproduction).
        rm=replace(base.rm, policy_steps=460, improver_steps=460),
        # Unknown; one pass over the fold's prompts in each stage is ours.
        rl=replace(base.rl, policy_rounds=57, curriculum=replace(base.rl.curriculum, rounds=(115, 57))),
        # The best temperature is known for HH-RLHF alone; 0.4 is kept from there, ours.
    )
