"""RL on a reward: rollouts, rewards, advantages, the curriculum of references, and what watches it."""
