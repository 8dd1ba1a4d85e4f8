"""An exported improver in transformers and torch: python examples/serve_exported.py runs/llama/export/improver."""

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = sys.argv[1]
prompt = "write a cheerful update to jonas about the city walk: finn, pens, five"
reference = "hey jonas, please remember the city walk. ask lucy for help. five start at we. big hugs"

# As the card of this folder says; that of an improver with a chat template builds a message of the user instead.
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
pieces = [prompt, "<reference>", reference, "<improve>"]
ids = [number for piece in pieces for number in tokenizer.encode(piece, add_special_tokens=False)]
drawn = model.generate(input_ids=torch.tensor([ids]), max_new_tokens=48, do_sample=False)
print(tokenizer.decode(drawn[0, len(ids) :], skip_special_tokens=True))
