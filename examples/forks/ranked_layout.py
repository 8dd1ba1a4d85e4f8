"""A layout of your own: rows that rank several answers, of which the first and the last make the pair.

pit-jax --fork=examples/forks/ranked_layout.py --stage=data --data.sources ranked:rows.jsonl --workdir=runs/ranked
"""

from typing import Any

from pit_jax.fork import Layout, Triple, Unusable, fork


def ranked(row: dict[str, Any]) -> Triple:
    """{"question": text, "answers": [{"text": text, "rank": number}, ...]}; rank 1 is the best."""
    question, answers = row.get("question"), row.get("answers")
    if not isinstance(question, str) or not question.strip():
        raise Unusable("no question", f"found {question!r:.80}")
    if not isinstance(answers, list) or len(answers) < 2:
        raise Unusable("fewer than two answers")
    try:
        ordered = sorted(answers, key=lambda answer: float(answer["rank"]))
        best, worst = str(ordered[0]["text"]), str(ordered[-1]["text"])
    except (TypeError, KeyError, ValueError) as error:
        raise Unusable("an answer without text or rank", str(error)) from error
    if best.strip() == worst.strip():
        raise Unusable("best and worst answer are the same", known=True)
    return Triple(question, best, worst)


EXAMPLE = {"question": "Name a colour.", "answers": [{"text": "stone", "rank": 3}, {"text": "blue", "rank": 1}]}

fork(Layout("ranked", ranked, examples=(EXAMPLE,)))
