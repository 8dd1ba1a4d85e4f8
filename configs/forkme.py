"""A config to copy: your own preference pairs, your own tokenizer, a mesh. Keep this note up to date as you go.

Command   python launch/tpu_run.py --stage=all --config=configs/forkme.py --data.sources pairs:pairs.jsonl
Hardware  the machine it ran on, its hours, its peak memory
Expect    the gap accuracies on held-out pairs and the delta of PIT x1 against the policy, with its interval
"""

from dataclasses import replace

from pit_jax.config import Config


def get_config() -> Config:
    """Every line below is an override; what is not named keeps its default (see pit_jax/config.py or --help)."""
    base = Config()
    return replace(
        base,
        workdir="runs/forkme",
        data=replace(
            base.data,
            # One JSON object a line: prompt, chosen, rejected; the README has a table of other sources. Several are
            # mixed at their rates:
            # sources=("pairs:mine.jsonl", "notes"), rates=(3.0, 1.0).
            sources=("notes",),
            rates=(1.0,),
            # Longer examples are counted and dropped, never cut: read data/report.json after the first run.
            prompt_length=48,
            response_length=48,
        ),
        # tokenizer=replace(base.tokenizer, path="/path/to/a/hugging-face/tokenizer"),
        transformer=replace(base.transformer, width=64, layers=2, query_heads=4, kv_heads=4, head_size=16, ffn=192),
        # On eight devices: data x fsdp x tensor = 1 x 4 x 2. Try it anywhere with --mesh.simulate=8.
        mesh=replace(base.mesh, data=-1, fsdp=1, tensor=1),
        sft=replace(base.sft, policy_steps=800, improver_steps=1600),
        rm=replace(base.rm, policy_steps=500, improver_steps=600),
        # Watch proxy against truth in the report before you lower kl_coef: a rising gap alone proves nothing.
        rl=replace(base.rl, kl_coef=0.15, curriculum=replace(base.rl.curriculum, rounds=(25, 35))),
    )
