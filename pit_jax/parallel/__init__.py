"""The device mesh and where parameters and batches live on it."""
