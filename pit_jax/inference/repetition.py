"""How much a response repeats itself."""

import jax
import jax.numpy as jnp


def repeated_ngrams(tokens_BT: jax.Array, mask_BT: jax.Array, *, n: int) -> jax.Array:
    """share_B, float32: of each response's n-grams, those that it has said before (seq-rep-n of arXiv 1908.04319).

        share = 1 - distinct n-grams / n-grams

    An n-gram is n real tokens (`mask_BT` True) in neighbouring slots; a response without one repeats nothing: 0. The
    n-grams of a row are sorted, so that equal ones become neighbours: exact, and T log T instead of T * T.
    """
    tokens_BT, mask_BT = (jnp.pad(x, ((0, 0), (0, n - 1))) for x in (tokens_BT, mask_BT.astype(bool)))
    places = tokens_BT.shape[1] - n + 1
    whole_BT = jnp.stack([mask_BT[:, i : i + places] for i in range(n)]).all(axis=0)
    words = [tokens_BT[:, i : i + places] for i in range(n)]
    incomplete_BT, *ordered = jax.lax.sort([(~whole_BT).astype(jnp.int32), *words], dimension=1, num_keys=n + 1)
    same_BT = jnp.stack([word_BT[:, 1:] == word_BT[:, :-1] for word_BT in ordered]).all(axis=0)
    repeated_B = jnp.sum(same_BT & (incomplete_BT[:, 1:] == 0), axis=1, dtype=jnp.float32)
    return repeated_B / jnp.maximum(jnp.sum(whole_BT, axis=1, dtype=jnp.float32), 1.0)
