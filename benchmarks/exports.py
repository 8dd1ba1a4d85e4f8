"""The exported policy and improver, elsewhere: ids by `apply_chat_template` and greedy answers, beside the product's.

    python -m benchmarks.exports --workdir=runs/real-model [--vllm=.venv-vllm/bin/python]

16 held-out prompts, and the rejected answers as what is improved, of a run with a chat template whose export is there;
answers are as long as those that the run was trained on. In transformers, and with --vllm in vLLM, whose environment
docs/howto/real_model.md makes.
"""

import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

import jax
from rich.console import Console

from benchmarks.greedy import asked_here, in_transformers, opened
from benchmarks.results import HERE, keep, parser_of
from pit_jax.recipes.export import EXPORTS
from pit_jax.run.params import Models
from pit_jax.run.provenance import StageId

PROMPTS = 16


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--vllm", default="", help="Python of an environment with vLLM")
    given = parser.parse_args()
    context = opened(given.workdir, StageId("export"))
    models, triples = Models(context), context.data.triples("heldout")[:PROMPTS]
    tokens, eos_id = context.data.response_slot, context.data.tokenizer.eos_id
    prompts, figures = [triple.prompt for triple in triples], {}
    for name in ("policy", "improver"):
        references = [triple.rejected for triple in triples] if name == "improver" else []
        with jax.set_mesh(context.mesh):
            asked = asked_here(context, models.load(EXPORTS[name]), prompts, references, tokens=tokens)
        folder = str(context.folder.path / name)
        compared, _ = in_transformers(folder, asked, tokens=tokens, eos_id=eos_id)
        figures[f"{name} in transformers"] = compared.figures()
        if given.vllm:
            job = {"folder": folder, "tokens": tokens, "eos_id": eos_id, "asked": [asdict(row) for row in asked]}
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(job, file)
                file.flush()
                command = [given.vllm, str(HERE / "vllm_answers.py"), file.name]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # vLLM says more behind it
            figures[f"{name} in vLLM"] = json.loads(line)
        Console().print({title: found for title, found in figures.items() if title.startswith(name)}, markup=False)
    keep(given.results, "exports", figures)


if __name__ == "__main__":
    main()
