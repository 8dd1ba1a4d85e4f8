"""Embedded sets of pairs whose truth is known."""
