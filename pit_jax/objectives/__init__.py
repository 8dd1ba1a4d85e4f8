"""What is optimised: pure functions from arrays to (loss, metrics)."""
