"""Preference pairs from a model's own answers, labelled by a judge that grades: what --data.sources pairs:FILE reads.

    python examples/pairs_of_samples.py --base=checkpoints/smollm2 --prompts=hh:data/hh_rlhf/train.jsonl.gz \\
        --fork=examples/forks/sentiment_judge.py --judge=sentiment --out=data/smollm2/pairs.jsonl

A prompt is a turn of the user in those dialogues, asked by itself and with a request for few words. Two answers are
drawn to each at temperature 1; where both ended and have different grades, a noisy Bradley-Terry draw on the grades
says which is the chosen one. Grades are not in the pairs. What is drawn to prompt i and how it is labelled depends on
the checkpoint, the seed, the prompt and i alone. Answers are kept beside the pairs: the same command after a kill goes
on behind the last chunk.
"""

import argparse
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.progress import track

from pit_jax.batch import DecodeSpec
from pit_jax.config import Config, DataConfig, MeshConfig
from pit_jax.data.sources import read_source
from pit_jax.data.text.templates import Template
from pit_jax.data.text.tokenizers import load_tokenizer
from pit_jax.data.text.transcripts import messages_of
from pit_jax.errors import UserError
from pit_jax.evaluation.answers import AnswerFile, AnswerRow
from pit_jax.evaluation.judges.builtin import JUDGES
from pit_jax.evaluation.judges.judge import Judge, grades
from pit_jax.evaluation.systems import POLICY
from pit_jax.files import Row, digest_of, file_digest, write_jsonl
from pit_jax.forks import load_forks
from pit_jax.inference.engine import Engine
from pit_jax.inference.sampling import Sampling
from pit_jax.inference.texts import TextEngine
from pit_jax.model.networks import LanguageModel, Params, ScalarModel
from pit_jax.parallel.mesh import make_mesh
from pit_jax.run.base import load_base, with_base

TEMPERATURE, SAMPLES = 1.0, 2


def flags(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder of the checkpoint that answers")
    parser.add_argument("--prompts", required=True, help="pairs as --data.sources names them: hh:FILE, ..")
    parser.add_argument("--fork", required=True, help="file that declares the judge")
    parser.add_argument("--judge", required=True, help="its name")
    parser.add_argument("--out", type=Path, required=True, help="file of the pairs, .jsonl")
    parser.add_argument("--count", type=int, default=0, help="most prompts; 0 = all")
    parser.add_argument("--words", type=int, nargs=2, default=(4, 20), help="fewest and most words of a turn")
    parser.add_argument("--request", default="Reply briefly, in fewer than 25 words.", help="what follows a turn")
    parser.add_argument("--first-turns", action="store_true", help="of each dialogue its first turn alone")
    parser.add_argument("--tokens", type=int, default=48, help="most tokens of an answer, its end included")
    parser.add_argument("--rows", type=int, default=64, help="answers that are drawn side by side")
    parser.add_argument("--sharpness", type=float, default=4.0, help="P(a over b) = sigmoid(sharpness * (a - b))")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def asked(given: argparse.Namespace) -> list[str]:
    """Different prompts, in the order in which dialogues and their turns stand there. UserError where there is none."""
    fewest, most = given.words
    turns = dict[str, str]()
    for triple in read_source(given.prompts, DataConfig()).triples:
        said = [text.strip() for role, text in messages_of(triple.prompt) if role == "user"]
        for text in said[: 1 if given.first_turns else None]:
            if fewest <= len(text.split()) <= most:
                turns.setdefault(" ".join(text.casefold().split()), text)
    if not turns:
        raise UserError(f"--prompts={given.prompts}: no turn of the user has {fewest} to {most} words; change --words")
    return [f"{text}\n{given.request}".rstrip() for text in list(turns.values())[: given.count or None]]


def opened(given: argparse.Namespace, prompts: Sequence[str]) -> tuple[TextEngine, Params]:
    """The engine of a checkpoint as it is, on the mesh that is set, and the weights that it draws with."""
    config, mesh = with_base(replace(Config(), base=given.base)), jax.sharding.get_mesh()
    template = Template(load_tokenizer(given.base))
    tokenizer = template.tokenizer
    sizes = {"ids": tokenizer.vocab_size, "rows": max(tokenizer.vocab_size, config.transformer.vocab_rows)}
    spec = DecodeSpec(given.tokens, tokenizer.eos_id, tokenizer.pad_id, tuple(template.improver_suffix), given.rows)
    engine = Engine(LanguageModel(config.transformer, sizes["rows"]), spec, mesh)
    scalar, longest = ScalarModel(config.transformer, sizes["rows"]), max(len(template.response(x)) for x in prompts)
    texts = TextEngine(engine, scalar, template, mesh, longest, batch_size=given.rows // SAMPLES, queue=4)
    return texts, engine.to_decode(load_base(config, mesh, jax.random.key(given.seed), **sizes))


def sampled(given: argparse.Namespace, prompts: Sequence[str]) -> list[AnswerRow]:
    """A row a prompt with its answers, of which those in the folder of --out are read from there."""
    made_by = [f"{given.tokens} {given.seed}", *map(file_digest, sorted(Path(given.base).glob("*.safetensors")))]
    file = AnswerFile(given.out.parent, POLICY, TEMPERATURE)
    rows = file.rows(prompts, [digest_of(*made_by, str(number), prompt) for number, prompt in enumerate(prompts)])
    if all(row.drafts for row in rows):
        return rows
    with jax.set_mesh(make_mesh(MeshConfig())):
        texts, weights = opened(given, prompts)
        chunks, key = texts.chunks(prompts), jax.random.key(given.seed)
        for index in track(range(len(chunks)), "drawing"):
            chunk = chunks[index]
            mine = rows[chunk.first : chunk.first + chunk.real]
            if all(row.drafts for row in mine):
                continue
            sampling = Sampling(jnp.float32(TEMPERATURE))
            drawn = texts.answer(weights, chunk, key, sampling, samples=SAMPLES)
            for number, row in enumerate(mine):
                for answer in drawn[number * SAMPLES :][: 0 if row.drafts else SAMPLES]:
                    row.add(answer)
            file.add(mine)
    file.close()
    return rows


def labelled(rows: Sequence[AnswerRow], judge: Judge, sharpness: float, seed: int) -> list[Row]:
    """Of each row whose answers say something, ended and differ in grade, the pair, in the layout `pairs`.

    By hand: grades 0.5 and 0, sharpness 4: the first is the chosen one with probability sigmoid(2) = 0.88.
    """
    prompts = [row.prompt for row in rows]
    a_N, b_N = (grades(judge, prompts, [row.drafts[side] for row in rows]) for side in range(SAMPLES))
    pairs = list[Row]()
    for row, a, b in zip(rows, a_N.tolist(), b_N.tolist(), strict=True):
        texts = [draft.text.strip() for draft in row.drafts if draft.ended]
        if a == b or len(texts) < SAMPLES or not all(texts):
            continue
        first_wins = random.Random(f"{seed}:{row.index}").random() < 1.0 / (1.0 + math.exp(sharpness * (b - a)))
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in texts[:: 1 if first_wins else -1])
        prompt = [{"role": "user", "content": row.prompt}]
        pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return pairs


def main(argv: Sequence[str]) -> None:
    given = flags(argv)
    load_forks([given.fork])
    judge, prompts = JUDGES[given.judge], asked(given)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = sampled(given, prompts)
    pairs = labelled(rows, judge, given.sharpness, given.seed)
    write_jsonl(given.out, pairs)
    ended = sum(draft.ended for row in rows for draft in row.drafts) / (SAMPLES * len(rows))
    Console().print(f"{given.out}: {len(pairs):,} pairs of {len(rows):,} prompts; {ended:.0%} of the answers ended")


if __name__ == "__main__":
    main(sys.argv[1:])
