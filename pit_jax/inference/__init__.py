"""Text in, text out: sampling from the models, and ways of turning an answer into a better one."""
