"""The training loop, checkpoints, distribution and logging; no method knowledge."""
