"""Sampling from the transformer: one jitted prefill and while_loop decode."""
