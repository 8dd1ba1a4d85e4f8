"""Answer with the policy, then improve K times; writes the trail of every prompt."""

import json
from pathlib import Path

import numpy as np
from rich.progress import Progress

from pit_jax.generation.sampling import Sampling
from pit_jax.stages.context import Context
from pit_jax.stages.systems import GapScorer, Systems
from pit_jax.stages.workspace import write_jsonl


def read_prompts(path: Path) -> list[str]:
    """The `prompt` column of a JSONL file. Raises ValueError naming file and line."""
    if not path.is_file():
        raise ValueError(f"--improve.prompts={path}: no such file; pass a JSONL file with a prompt column")
    prompts = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line.decode("utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}, line {number}: not a JSON object in UTF-8 ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise ValueError(f"{path}, line {number}: asked for a text column `prompt`, found {found}")
        prompts.append(row["prompt"])
    if not prompts:
        raise ValueError(f"{path} holds no prompts; give one JSON object a line")
    return prompts


def run(context: Context, progress: Progress) -> None:
    config, folder = context.config.improve, context.folder("improve", "")
    sampling = Sampling(config.temperature, config.top_k, config.top_p)
    if config.prompts:
        prompts = read_prompts(Path(config.prompts))
    else:
        prompts = [triple.prompt for triple in context.data.triples("heldout")]
    prompts = prompts[: config.limit]
    lineage = folder.begin(context.config, data_fingerprint=context.data.fingerprint)
    systems = Systems(context, prompts, batch_size=config.batch_size, sampling=sampling)
    bar = progress.add_task(folder.name, total=len(prompts), note=f"{config.rounds} rounds")
    trail = systems.trail(
        context.load("rl", "policy"),
        context.load("rl", "improver"),
        config.temperature,
        context.key("improve"),
        lambda done: progress.advance(bar, done),
        rounds=config.rounds,
    )
    answers = [systems.texts(tokens) for tokens in trail.tokens_BT]
    gap = GapScorer(context, context.load("rm", "improver"), batch_size=config.batch_size)
    gaps = [
        gap(prompts, after, before) - gap(prompts, before, before)
        for before, after in zip(answers, answers[1:], strict=False)
    ]
    truth = context.truth if not config.prompts else None
    rows = [
        {
            "prompt": prompt,
            "answers": [texts[i] for texts in answers],
            "scores": None if truth is None else [truth(prompt, texts[i]) for texts in answers],
            "gaps": [float(np.round(found[i], 4)) for found in gaps],
        }
        for i, prompt in enumerate(prompts)
    ]
    write_jsonl(folder.path / "trails.jsonl", rows)
    folder.finish(round=config.rounds, digest=lineage["config"])
