"""Improve answers of your own with a finished run: python examples/improve_answers.py runs/tiny."""

import sys

import pit_jax

pit = pit_jax.load(sys.argv[1])
prompts = ["write a cheerful update to jonas about the city walk: finn, pens, five"]
answers = ["hey jonas, please remember the city walk. ask lucy for help. five start at we. big hugs"]
better = pit.improve(prompts, answers, rounds=2)
for answer, improved, gap in zip(answers, better, pit.gap(prompts, better, answers), strict=True):
    print(f"given     {answer}\nimproved  {improved}\nbetter by {gap:+.2f}, as the gap model sees it")
