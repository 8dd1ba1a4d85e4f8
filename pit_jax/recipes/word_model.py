"""The word model (data/text/word_model.py) of a run: a second opinion beside its reward and its gap model.

A network that RL climbs, or that is asked to choose among drafts, is wrong where its training pairs said little, and
other networks of the same pairs are wrong there too (arXiv 2312.09244); a model of another kind is less often so.
"""

from collections.abc import Iterator

import numpy as np

from pit_jax.batch import Triple
from pit_jax.data.folds import PAIR_FOLDS
from pit_jax.data.text.segments import WORDS
from pit_jax.data.text.word_model import WordModel, calibration, columns
from pit_jax.errors import UserError
from pit_jax.rl.roles import WORD_MODEL
from pit_jax.run.code import package_code
from pit_jax.run.context import Context
from pit_jax.run.stage import Recipe

MOST_READ = 20_000  # pairs: 51,000 of an embedded world bring half a point more
MOST_WORDS = 4_000_000  # of their prompts and answers: half a minute, and half a GB
HELDOUT_PAIRS = 1024  # at most: the accuracy is then known to two points
WEIGHTS = "weights.json"


def run(context: Context) -> None:
    """Fit it to the pairs that --rm.pairs names, calibrate it on held-out ones, and finish the stage.

    UserError for a fold without pairs.
    """
    for fold in (PAIR_FOLDS[context.config.rm.pairs][0], "heldout"):
        context.data.rows(fold, "gap")
    context.folder.begin(context.config, data_fingerprint=context.data.fingerprint, package=package_code())
    pairs, heldout = list(pairs_read(context)), list(context.data.triples("heldout")[:HELDOUT_PAIRS])
    model = WordModel.of(pairs)
    gaps_N = model.gaps(*columns(heldout))
    right, share = float(np.mean((gaps_N > 0) + (gaps_N == 0) / 2)), calibration(gaps_N)
    model = model.scaled(share)
    model.write(context.folder.path / WEIGHTS)
    context.screen.say(
        f"{context.folder.name}: read {len(pairs):,} pairs; right on {right:.1%} of {len(heldout):,} held-out ones, "
        f"where {share:.2f} of its log-odds hold: so much of it counts"
    )
    done = {"read": len(pairs), "heldout": len(heldout), "right": right, "share": share}
    context.folder.finish(round=0, digest=model.digest, **done)


def pairs_read(context: Context) -> Iterator[Triple]:
    """The pairs in an order drawn by the seed, up to MOST_READ of them and MOST_WORDS in them; at least one."""
    triples, words = context.data.triples(*PAIR_FOLDS[context.config.rm.pairs]), 0
    for number in np.random.default_rng(context.config.seed).permutation(len(triples))[:MOST_READ].tolist():
        pair = triples[number]
        yield pair
        words += sum(len(WORDS.findall(text)) for text in (pair.prompt, pair.chosen, pair.rejected))
        if words > MOST_WORDS:
            return


def word_model_of(context: Context) -> WordModel | None:
    """The finished one; None for a run without. UserError where its file is not what the stage has left."""
    if not context.config.rm.word_model:
        return None
    folder = context.folder_of(WORD_MODEL)
    path, cure = folder.path / WEIGHTS, f"delete {folder.path} to fit it again"
    model = WordModel.read(path, cure=cure)
    if model.digest != folder.digest:
        raise UserError(f"{path} has changed since it was written ({folder.digest}, now {model.digest}); {cure}")
    return model


RECIPE = Recipe(run=run)
