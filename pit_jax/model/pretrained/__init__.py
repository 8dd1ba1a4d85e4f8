"""Published checkpoints: their architectures, and their tensors read and written."""
