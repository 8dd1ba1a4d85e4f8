"""Answer with the policy, then improve up to K times; writes the trail of every prompt and the answer chosen on it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from rich.table import Table

from pit_jax.generation.sampling import Sampling
from pit_jax.improvement.stopping import NEVER, ScoredTrail, chosen_round
from pit_jax.stages.context import Context
from pit_jax.stages.models import load
from pit_jax.stages.systems import Systems
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


def rows_of(
    prompts: Sequence[str], answers: Sequence[Sequence[str]], trail: ScoredTrail, chosen_N: np.ndarray
) -> list[dict[str, Any]]:
    """One row a prompt: answers and tokens drawn [K + 1], gaps of the drafts [K], and the round that is chosen."""
    return [
        {
            "prompt": prompt,
            "answers": [texts[i] for texts in answers],
            "gaps": [round(gap, 4) for gap in trail.gap_B[:, i].tolist()],
            "tokens": [int(trail.answers.mask_BT[0, i].sum()), *trail.tokens_B[:, i].tolist()],
            "chosen": int(chosen_N[i]),
        }
        for i, prompt in enumerate(prompts)
    ]


def round_table(trail: ScoredTrail, chosen_N: np.ndarray) -> Table:
    """What each round did. Gap and copies are of its drafts, the other columns are over all prompts."""
    table = Table(title=f"improve, n = {len(chosen_N):,}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("round", "mean gap", "mean length", "copied %", "active %", "mean tokens", "chosen %"):
        table.add_column(column, justify="right", no_wrap=True)
    lengths = trail.answers.mask_BT.sum(axis=2)
    chosen = [f"{100 * np.mean(chosen_N == k):.1f}" for k in range(len(lengths))]
    first = f"{lengths[0].mean():.1f}"
    table.add_row("0", "–", first, "–", "100.0", first, chosen[0])
    for k in range(1, len(lengths)):
        drafts, active_N = [trail.gap_B[k - 1], trail.copied_B[k - 1]], trail.active_B[k - 1]
        gap, copied = (float(x[active_N].mean()) if active_N.any() else None for x in drafts)
        table.add_row(
            str(k),
            "–" if gap is None else f"{gap:+.3f}",
            f"{lengths[k].mean():.1f}",
            "–" if copied is None else f"{100 * copied:.1f}",
            f"{100 * active_N.mean():.1f}",
            f"{trail.tokens_B[k - 1].mean():.1f}",
            chosen[k],
        )
    return table


def run(context: Context, progress: Progress) -> None:
    """Write trails.jsonl and print what each round did."""
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
    trail = systems.scored_trail(
        load(context, "rl", "policy"),
        load(context, "rl", "improver"),
        load(context, "rm", "improver"),
        config.temperature,
        context.key("improve"),
        lambda done: progress.advance(bar, done),
        rounds=config.rounds,
        threshold=config.stop_threshold if config.stop == "threshold" else NEVER,
    )
    chosen_N = chosen_round(trail, config.stop)
    answers = [context.texts(tokens_NT) for tokens_NT in trail.answers.tokens_BT]
    rows = rows_of(prompts, answers, trail, chosen_N)
    truth = context.truth if not config.prompts else None
    for row in rows:
        row["scores"] = None if truth is None else [truth(row["prompt"], text) for text in row["answers"]]
    write_jsonl(folder.path / "trails.jsonl", rows)
    folder.finish(round=config.rounds, digest=lineage["config"])
    context.console.print(round_table(trail, chosen_N))
