"""A training run: trainer, checkpoints, distribution, interruption."""
