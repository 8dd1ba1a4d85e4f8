"""What a fork promises, tried: python -m pit_jax.fork check FILE."""
