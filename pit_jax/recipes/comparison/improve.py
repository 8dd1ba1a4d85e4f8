"""Improve answers up to K times: the policy's to held-out prompts, or those of a file; write every prompt's trail."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from pit_jax.config import Config
from pit_jax.data.readers import identity, local_files
from pit_jax.data.sources import known_truth, read_asked
from pit_jax.data.worlds.world import Score
from pit_jax.errors import UserError
from pit_jax.evaluation.answers import AnswerRow
from pit_jax.evaluation.systems import Output, pit
from pit_jax.files import digest_of, file_digest, write_jsonl
from pit_jax.inference.prompts import check_length, check_texts
from pit_jax.inference.stopping import check_stop, chosen_round
from pit_jax.inference.texts import written
from pit_jax.paths import local
from pit_jax.recipes.comparison.draw import IMPROVER_RL, Answering, Prompts, heldout_prompts
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.stage import Batch, Recipe


def run(context: Context) -> None:
    """Write trails.jsonl and print what each round did."""
    config, folder = context.config.improve, context.folder
    prompts = asked_prompts(context) if config.prompts else heldout_prompts(context)
    fingerprint = context.data.fingerprint
    lineage = folder.begin(context.config, data_fingerprint=fingerprint, package=package_code())
    bar = context.screen.bar(folder.name, 2 * len(prompts.texts), note=f"{config.rounds} rounds")
    answering = Answering(context, prompts, bar=bar)
    threshold = config.stop_threshold if config.stop == "threshold" else -np.inf
    original, improver = answering.policy(config.temperature), answering.source(IMPROVER_RL)
    drawn = answering.trail_rows(pit(0), config.temperature, config.rounds, improver, gaps=True, threshold=threshold)
    rows = [within(row, config.rounds, threshold) for row in drawn]
    chosen = [
        chosen_round(row.gaps, config.stop, rounds=config.rounds, threshold=config.stop_threshold) for row in rows
    ]
    truth = None if config.prompts else known_truth(context.config.data)
    write_jsonl(folder.path / "trails.jsonl", trail_lines(rows, original, chosen, truth))
    folder.finish(round=config.rounds, digest=lineage["config"])
    context.screen.say(round_table(rows, original, chosen, config.rounds))


def check(config: Config, role: str) -> None:
    """UserError for a threshold that the rule does not read."""
    check_stop(config.improve.stop, config.improve.stop_threshold)


def asked_contents(config: Config, role: str) -> Mapping[str, str]:
    """The files of --improve.prompts by their contents; where they are elsewhere, by their address."""
    location = config.improve.prompts
    if not location:
        return {}
    digests = [file_digest(local(path)) for path in local_files(location)]
    return {"contents of improve.prompts": digest_of(identity(location), *digests)}


def asked_prompts(context: Context) -> Prompts:
    """The rows of --improve.prompts, the first `limit` of them."""
    config = context.config.improve
    texts, given = read_asked(config.prompts)
    texts, given = texts[: config.limit or None], given[: config.limit or None]
    if not texts:
        raise UserError(f"--improve.prompts={config.prompts} holds no prompt; give one JSON object a line")
    slot, template = context.data.response_slot, context.data.template
    check_texts(template, config.prompts, texts, [answer or "" for answer in given])
    for number, answer in enumerate(given, 1):
        if answer is not None:
            tokens = len(written(template, answer).ids)
            check_length(f"{config.prompts}: answer {number}", tokens, slot, kind="an answer")
    return Prompts(texts, context.folder.path / "answers", given)


def within(row: AnswerRow, rounds: int, threshold: float) -> AnswerRow:
    """A row without what lies behind its last round, or its first gap below the threshold: others drew that."""
    last = next((k for k, gap in enumerate(row.gaps[:rounds], 1) if gap < threshold), rounds)
    lists = {name: getattr(row, name)[:last] for name in ("drafts", "tokens", "replies", "gaps")}
    return replace(row, **lists)


def trail_lines(
    rows: Sequence[AnswerRow], original: Output, chosen: Sequence[int], truth: Score | None
) -> list[dict[str, Any]]:
    """One line a prompt: its answers y_0 .., gaps and tokens of the drafts, the chosen round and its answer."""
    lines = []
    for row, first, drawn, round in zip(rows, original.answers, original.drawn_N.tolist(), chosen, strict=True):
        answers = [first.text, *(draft.text for draft in row.drafts)]
        lines.append(
            {
                "prompt": row.prompt,
                "answer": answers[round],
                "answers": answers,
                "gaps": [float(f"{gap:.4f}") for gap in row.gaps],
                "tokens": [drawn, *row.tokens],
                "chosen": round,
                "scores": None if truth is None else [truth(row.prompt, text) for text in answers],
            }
        )
    return lines


def round_table(rows: Sequence[AnswerRow], original: Output, chosen: Sequence[int], rounds: int) -> Table:
    """What each round did: the mean gap, length, tokens and copies of its drafts, and how often it was chosen."""
    table = Table(title=f"improve, n = {len(rows):,}", title_justify="left", box=None, padding=(0, 1, 0, 0))
    for column in ("round", "drafts", "mean gap", "mean tokens", "copied %", "chosen %"):
        table.add_column(column, justify="right", no_wrap=True)
    share = [f"{100 * np.mean(np.asarray(chosen) == round):.1f}" for round in range(rounds + 1)]
    table.add_row("0", f"{len(rows):,}", "–", f"{original.lengths_N.mean():.1f}", "–", share[0])
    for round in range(1, rounds + 1):
        drafted = [i for i, row in enumerate(rows) if len(row.drafts) >= round]
        before = [rows[i].drafts[round - 2] if round > 1 else original.answers[i] for i in drafted]
        drafts = [rows[i].drafts[round - 1] for i in drafted]
        copied = [draft.ids == old.ids for draft, old in zip(drafts, before, strict=True)]
        table.add_row(
            str(round),
            f"{len(drafts):,}",
            f"{np.mean([rows[i].gaps[round - 1] for i in drafted]):+.3f}" if drafts else "–",
            f"{np.mean([len(draft.ids) for draft in drafts]):.1f}" if drafts else "–",
            f"{100 * np.mean(copied):.1f}" if drafts else "–",
            share[round],
        )
    return table


def batches(config: Config, role: str) -> Iterator[Batch]:
    yield "--improve.batch-size", config.improve.batch_size, 1


RECIPE = Recipe(run=run, check=check, contents=asked_contents, batches=batches)
