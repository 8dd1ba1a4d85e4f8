"""Plans: what the stages of a run need on a machine that is not there."""
