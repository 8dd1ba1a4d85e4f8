"""What a person opens: pages, tables, curves, and what changed between two answers."""
