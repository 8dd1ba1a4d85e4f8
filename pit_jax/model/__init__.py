"""The one decoder-only transformer and its scalar heads."""
