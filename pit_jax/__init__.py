"""pit_jax: train a language model to improve a given answer, from preference pairs alone."""
