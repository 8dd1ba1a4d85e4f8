"""A run on disk: stages as values, their folders and lineage, and the parameters of what is finished."""
