"""Work that torch and transformers do beside this project: a Llama of a shape, trained or sampled from.

    python -m benchmarks.torch_peer '{"work": "sft", "device": "cpu", "config": {..}, ..}'

See benchmarks/peers.py. It imports nothing of the project.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from benchmarks.serving import serve


def config_of(job: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(
        **job["config"],
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        num_labels=1,
    )


def training(job: dict[str, Any]) -> Callable[[], None]:
    """An update by AdamW with clipping: of next tokens, or of pairs by Bradley-Terry. Weights are float32; products are
    of the job's dtype, by autocast."""
    tokens_BL = torch.randint(5, job["config"]["vocab_size"], (job["rows"], job["length"]), device=job["device"])
    with torch.device(job["device"]):
        model = (LlamaForCausalLM if job["work"] == "sft" else LlamaForSequenceClassification)(config_of(job))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=job["device"] == "cuda")
    halved = job["dtype"] == "bfloat16"

    def loss() -> torch.Tensor:
        if job["work"] == "sft":
            found: torch.Tensor = model(input_ids=tokens_BL, labels=tokens_BL).loss
            return found
        chosen_B, rejected_B = model(input_ids=tokens_BL).logits[:, 0].chunk(2)
        return -torch.nn.functional.logsigmoid(chosen_B - rejected_B).mean()

    def update() -> None:
        optimizer.zero_grad()
        with torch.autocast(job["device"], torch.bfloat16, enabled=halved):
            found = loss()
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return update


def sampling(job: dict[str, Any]) -> Callable[[], None]:
    """So many tokens behind prompts of `length`, at temperature 1 from the whole vocabulary."""
    tokens_BL = torch.randint(5, job["config"]["vocab_size"], (job["rows"], job["length"]), device=job["device"])
    with torch.device(job["device"]):
        model = LlamaForCausalLM(config_of(job)).eval().to(getattr(torch, job["dtype"]))
    new = job["tokens"]

    def draw() -> None:
        with torch.no_grad():
            model.generate(tokens_BL, do_sample=True, top_k=0, min_new_tokens=new, max_new_tokens=new)

    return draw


if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    torch.manual_seed(0)
    torch.set_num_threads(job["threads"])
    work = sampling(job) if job["work"] == "sampling" else training(job)

    def finished() -> None:
        work()
        if job["device"] == "cuda":
            torch.cuda.synchronize()

    serve({"torch": torch.__version__, "transformers": transformers.__version__}, finished)
