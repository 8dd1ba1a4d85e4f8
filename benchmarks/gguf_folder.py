"""A GGUF file as a Hugging Face folder, which --base takes: float32 weights, config, tokenizer and chat template.

    python benchmarks/gguf_folder.py MODEL.gguf checkpoints/NAME

It needs torch, transformers, accelerate and gguf (docs/howto/real_model.md), nothing of this project. Quantised weights
are written as the numbers that they stand for: the folder is that model, not the one that was quantised.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def write(file: Path, folder: Path) -> None:
    """The model and the tokenizer of a GGUF file; `save_pretrained` refuses a model as it is read from one."""
    named = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    read = AutoModelForCausalLM.from_pretrained(**named, dtype=torch.float32)
    config = type(read.config)(**{k: v for k, v in read.config.to_diff_dict().items() if k not in LEFT})
    fresh = type(read)(config)
    fresh.load_state_dict(read.state_dict())
    fresh.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**named).save_pretrained(folder)


LEFT = ("_name_or_path", "_model_name_or_path", "unk_token_id", "quantization_config")  # the file's, not the model's

if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
