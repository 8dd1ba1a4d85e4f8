"""A published checkpoint through the product, beside torch: answers, loss, and every stage for a few updates.

    python -m benchmarks.real_model --base=checkpoints/smollm2 --rows=hh.jsonl.gz --scratch=runs/real-model [flags]

The untouched model first: greedy answers of 64 tokens to 16 held-out prompts, and its loss on held-out answers (nats a
token), here and in torch, which gets its ids from `apply_chat_template` of the checkpoint's own folder. Then the
command: data, SFT with adapters, the reward and the gap model, RL of both models, export. What is finished is read.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks.command import BEFORE_IMPROVER_RL, execute
from benchmarks.greedy import asked_here, in_transformers, opened
from benchmarks.results import keep, parser_of
from pit_jax.batch import SftBatch
from pit_jax.files import read_metrics
from pit_jax.model.networks import Params
from pit_jax.model.scoring import counted_logprobs
from pit_jax.paths import METRICS
from pit_jax.run.base import load_base
from pit_jax.run.context import Context
from pit_jax.run.provenance import StageId

PROMPTS, TOKENS, SCORED, STEPS, GAP_STEPS, ROUNDS = 16, 64, 32, 20, 8, 2
HELDOUT = ("loss", "accuracy", "objective/scores", "objective/kl")
SMALL = (  # short rows, few of them: what two cores do in minutes
    *("--config=hh_rlhf", "--transformer.dtype=float32", "--transformer.frozen-dtype=float32"),
    *("--transformer.remat=none", "--adapter.rank=8", "--data.heldout-fraction=0.2", "--data.buckets=1"),
    *("--data.prompt-length=64", "--data.response-length=40", "--sft.batch-size=2", "--rm.batch-size=2"),
    *(f"--sft.policy-steps={STEPS}", f"--sft.improver-steps={STEPS}", "--sft.optimizer.learning-rate=3e-4"),
    *(f"--rm.policy-steps={GAP_STEPS}", f"--rm.improver-steps={GAP_STEPS}", f"--rl.policy-rounds={ROUNDS}"),
    *("--rl.curriculum.references", "rejected+chosen", "--rl.curriculum.rounds", str(ROUNDS)),
    *("--rl.batch-size=4", "--rl.minibatches=1", "--rl.epochs=1", "--rl.heldout-prompts=4"),
    *(f"--rl.evaluate-every={ROUNDS}", "--rl.ignore-gates"),
)


def losses(context: Context, params: Params, model: Any) -> tuple[float, float]:
    """Nats a token of the first held-out answers, their EOS included: here, and by torch on the same ids."""
    import torch

    rows = context.data.rows("heldout", "sft-policy").first(SCORED)
    make: Any = SftBatch
    batch = make(**rows.whole())
    read = jax.jit(partial(counted_logprobs, context.language_model, slots=rows.longest("chosen") + 1))
    logprobs_BT, _, mask_BT = jax.device_get(read(params, batch))
    total, count = 0.0, 0
    with torch.no_grad():
        for row in range(len(rows)):
            real = int(np.sum(batch.segments_BL[row] > 0))
            ids, counted_L = torch.tensor(np.array(batch.tokens_BL[row, :real])), batch.mask_BL[row, :real]
            logprobs_LV = torch.log_softmax(model(ids[None].long()).logits[0].double(), dim=-1)
            targets_L = torch.tensor(np.array(batch.targets_BL[row, :real])).long()
            picked_L = logprobs_LV.gather(1, targets_L[:, None])[:, 0].numpy()
            total, count = total - float(picked_L[counted_L].sum()), count + int(counted_L.sum())
    assert count == int(mask_BT.sum()), "the two count the same tokens"
    return float(-logprobs_BT[mask_BT].sum() / count), total / count


def untouched(workdir: Path, console: Console) -> dict[str, Any]:
    """Answers and loss of the base, beside torch's."""
    context = opened(workdir, StageId("sft", "policy"))
    tokenizer = context.data.tokenizer
    prompts = [triple.prompt for triple in context.data.triples("heldout")[:PROMPTS]]
    sizes = {"ids": tokenizer.vocab_size, "rows": context.vocab_size}
    with jax.set_mesh(context.mesh):
        params = load_base(context.config, context.mesh, context.key("new tokens"), **sizes)
        asked = asked_here(context, params, prompts, tokens=TOKENS)
        compared, model = in_transformers(context.config.base, asked, tokens=TOKENS, eos_id=tokenizer.eos_id)
        here, there = losses(context, params, model)
    console.print(f"greedy answers of {TOKENS} tokens here and in torch: {compared.figures()}", markup=False)
    console.print(f"loss on held-out answers, nats a token: {here:.5f} here, {there:.5f} in torch")
    return {**compared.figures(), "loss": round(here, 5), "loss in torch": round(there, 5)}


def trained(workdir: Path, flags: Sequence[str]) -> dict[str, Any]:
    """Of every stage: updates or rounds, seconds, MiB at the peak, and how it did on held-out rows or prompts."""
    figures: dict[str, Any] = {}
    for stage, model in (*BEFORE_IMPROVER_RL, ("rl", "improver")):
        execute([f"--stage={stage}", f"--model={model}", *flags])
        rows = read_metrics(workdir / f"{stage}-{model}" / METRICS)
        last = [row for row in rows if row["phase"] == "eval"][-1]
        shown = {name: round(last[name], 3) for name in HELDOUT if name in last}
        peak = max(row.get("perf/host_peak_bytes", 0) for row in rows)
        took = {"steps": last["step"], "seconds": round(rows[-1]["time"]), "MiB": int(peak) >> 20}
        figures[f"{stage}-{model}"] = took | shown
    return figures


def main(argv: Sequence[str]) -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--rows", required=True, help="HH-RLHF dialogues, .jsonl.gz")
    parser.add_argument("--scratch", type=Path, default=Path("runs/real-model"))
    given, more = parser.parse_known_args(argv)
    sources = (f"--base={given.base}", f"--data.sources=hh:{given.rows}", f"--workdir={given.scratch}")
    flags = [*sources, *SMALL, *more]
    execute(["--stage=data", *flags])
    console = Console()
    figures = untouched(given.scratch, console) | trained(given.scratch, flags)
    execute(["--stage=export", *flags])
    console.print(figures, markup=False)
    keep(given.results, "real_model", figures)


if __name__ == "__main__":
    main(sys.argv[1:])
