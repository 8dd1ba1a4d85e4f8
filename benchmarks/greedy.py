"""Greedy answers of the product beside those of transformers: the same prompts as messages, token by token."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from pit_jax.config import Config
from pit_jax.data.store import open_data
from pit_jax.data.text.templates import improver_messages
from pit_jax.data.text.transcripts import messages_of
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.model.networks import Params
from pit_jax.parallel.mesh import make_mesh
from pit_jax.recipes.catalogue import catalogue
from pit_jax.recipes.comparison.draw import text_engine
from pit_jax.run.context import Context
from pit_jax.run.folders import Run
from pit_jax.run.provenance import StageId
from pit_jax.run.record import read_record
from pit_jax.run.screen import Screen


@dataclass(frozen=True)
class Asked:
    """A prompt and its answer here, as tokens; `messages` are what a chat template makes the prompt of."""

    messages: list[dict[str, str]]
    ids: list[int]
    answer: list[int]  # EOS included where it ends


@dataclass(frozen=True)
class Compared:
    """How many prompts have the same ids elsewhere, how many answers the same tokens, and where the others part."""

    prompts: int
    ids: int
    answers: int
    apart: list[str]

    def figures(self) -> dict[str, Any]:
        return asdict(self)


def opened(workdir: Path, stage: StageId) -> Context:
    """The context of a stage of a run whose data are prepared."""
    config, stages = read_record(workdir, Config), catalogue()
    run = Run(config, stages)
    data, mesh = open_data(run.data_folder), make_mesh(config.mesh)
    return Context(config, run, stages[stage], data, mesh, Screen(Console(quiet=True)))


def asked_here(
    context: Context, params: Params, prompts: Sequence[str], references: Sequence[str] = (), *, tokens: int
) -> list[Asked]:
    """Greedy answers of at most `tokens` tokens, on the mesh that is set; with `references` improvements of these."""
    template = context.data.template
    engine = Engine(context.language_model, replace(context.decode_spec, response_slot=tokens), context.mesh)
    texts = replace(text_engine(context), engine=engine, batch_size=len(prompts))
    given = [template.response(y) for y in references]
    (chunk,) = texts.chunks(prompts)
    greedy, weights = (jax.random.key(0), Sampling(jnp.float32(0.0))), engine.to_decode(params)
    drawn = texts.rewrite(weights, chunk, given, *greedy) if given else texts.answer(weights, chunk, *greedy)
    asked = []
    for number, (x, answer) in enumerate(zip(prompts, drawn, strict=True)):
        messages, ids = [*messages_of(x)], template.policy_prompt(x)
        if given:
            messages = improver_messages(messages, references[number])
            ids = [*template.improver_prefix(x), *given[number], *template.improver_suffix]
        rows = [{"role": role, "content": content} for role, content in messages]
        asked.append(Asked(rows, ids, list(answer.ids)))
    return asked


def in_transformers(folder: str, asked: Sequence[Asked], *, tokens: int, eos_id: int) -> tuple[Compared, Any]:
    """(the comparison, the model) of a folder, opened by transformers and torch alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # its threads and those of jax spin for the same cores
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    same_ids, apart = 0, []
    for row in asked:
        ids = tokenizer.apply_chat_template(row.messages, add_generation_prompt=True, return_dict=False)
        same_ids += ids == row.ids
        drawn = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=tokens, do_sample=False)
        found = drawn[0, len(ids) :].tolist()
        found = found[: found.index(eos_id) + 1] if eos_id in found else found
        if found != row.answer:
            pairs = zip([*row.answer, -1], [*found, -1], strict=False)
            place, here, there = next((i, a, b) for i, (a, b) in enumerate(pairs) if a != b)
            with torch.no_grad():
                logits_V = model(torch.tensor([ids + found[:place]])).logits[0, -1]
            by = float(logits_V[there] - logits_V[here])
            apart.append(f"token {place}: {here} here, {there} in torch, by {by:.1e} of its logits")
    return Compared(len(asked), same_ids, len(asked) - len(apart), apart), model
