"""Ways of turning an answer into a better one."""
