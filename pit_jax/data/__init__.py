"""From preference pairs to arrays: sources, seqio tasks, tokenizers, templates, streams."""
