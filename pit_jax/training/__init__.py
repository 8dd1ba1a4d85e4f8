"""State, optimizer, step, loop, checkpoints and metrics, shared by all stages."""
