"""Judges, comparisons with intervals, and the report page."""
