"""What is run: the catalogue of stages, the order of a command, and one recipe a stage."""
