"""Greedy answers of a folder in vLLM, beside given ones: what benchmarks/exports.py runs in vLLM's own environment.

    VLLM_CPU_KVCACHE_SPACE=2 .venv-vllm/bin/python benchmarks/vllm_answers.py JOB.json

The line that begins with a brace is the comparison, in JSON. It imports nothing of the project.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def compared(job: dict[str, Any]) -> dict[str, Any]:
    """Prompts of equal ids, answers of equal tokens, and where the others part."""
    from vllm import LLM, SamplingParams

    asked, eos_id = job["asked"], job["eos_id"]
    longest = max(len(row["ids"]) for row in asked) + job["tokens"]
    model = LLM(model=job["folder"], dtype="float32", max_model_len=longest, enforce_eager=True)
    greedy = SamplingParams(temperature=0.0, max_tokens=job["tokens"], logprobs=2)
    same_ids, apart = 0, []
    for row, found in zip(asked, model.chat([row["messages"] for row in asked], greedy), strict=True):
        same_ids += list(found.prompt_token_ids) == row["ids"]
        answer = list(found.outputs[0].token_ids)
        answer = answer[: answer.index(eos_id) + 1] if eos_id in answer else answer
        if answer != row["answer"]:
            pairs = zip([*row["answer"], -1], [*answer, -1], strict=False)
            place = next(i for i, (here, there) in enumerate(pairs) if here != there)
            first, second = (x.logprob for x in list(found.outputs[0].logprobs[place].values())[:2])
            apart.append(f"token {place}: the two likeliest in vLLM differ by {abs(first - second):.1e} nats")
    return {"prompts": len(asked), "ids": same_ids, "answers": len(asked) - len(apart), "apart": apart}


if __name__ == "__main__":
    print(json.dumps(compared(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
