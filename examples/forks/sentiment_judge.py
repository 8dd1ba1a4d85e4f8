"""A judge that grades without a model or a network: how positive an answer reads, by VADER's lexicon and rules.

pit-jax --fork=examples/forks/sentiment_judge.py --stage=judge --evaluate.judges sentiment

It needs `pip install vaderSentiment` (MIT; Hutto and Gilbert, ICWSM 2014), whose lexicon is inside it.
"""

import functools
from collections.abc import Callable, Sequence

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from pit_jax.fork import Judge, fork

FEWEST = 5  # words of an answer: one that says less, or nothing, gets the lowest grade
LOWEST = -1.0


@functools.cache
def _scores() -> Callable[[str], dict[str, float]]:
    """Of a text, by their names; the lexicon is read once."""
    analyser = SentimentIntensityAnalyzer()
    return lambda text: dict(analyser.polarity_scores(text))


def sentiment(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
    """VADER's compound score of each answer, from -1 (negative) to 1 (positive); what was asked does not count."""
    return [_scores()(answer)["compound"] if len(answer.split()) >= FEWEST else LOWEST for answer in answers]


fork(Judge("sentiment", sentiment))
