"""Judges: who says which of two answers is better."""
