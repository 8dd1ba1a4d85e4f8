"""The embedded `notes` set on a laptop: PIT end to end with nothing to download.

Command   make demo
          python launch/tpu_run.py --stage=all --config=configs/tiny.py --workdir=runs/tiny
Model     two layers, width 64, a tokenizer trained on the data; CPU, float32.
"""

from dataclasses import replace

from pit_jax.config import Config


def get_config() -> Config:
    base = Config()
    return replace(
        base,
        data=replace(base.data, notes_pairs=66_000, prompt_length=24, response_length=36),
        tokenizer=replace(base.tokenizer, vocab_size=768),
        transformer=replace(base.transformer, query_heads=2, kv_heads=2, head_size=32, unroll=2),
        sft=replace(base.sft, optimizer=replace(base.sft.optimizer, learning_rate=3e-3)),
        rm=replace(base.rm, optimizer=replace(base.rm.optimizer, learning_rate=1e-3)),
    )
