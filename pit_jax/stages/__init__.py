"""What is run: one file a stage, each reads top to bottom."""
