"""An exported improver in transformers and torch: python examples/serve_exported.py runs/llama/export/improver."""

import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
prompt = "write a cheerful update to jonas about the city walk: finn, pens, five"
answer = "hey jonas, please remember the city walk. ask lucy for help. five start at we. big hugs"

tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
# The card of the folder shows the row that the model was trained on; every piece of it is tokenised on its own.
row = Path(folder, "README.md").read_text(encoding="utf-8").split("```text\n")[1].split("\n```")[0]
texts = {"{prompt}": prompt, "{reference}": answer}
pieces = [texts.get(piece, piece) for piece in re.split(r"(\{prompt\}|\{reference\})", row)]
ids = [token for piece in pieces for token in tokenizer.encode(piece, add_special_tokens=False)]
drawn = model.generate(torch.tensor([ids]), max_new_tokens=48, do_sample=False)
print(tokenizer.decode(drawn[0][len(ids) :], skip_special_tokens=True))
