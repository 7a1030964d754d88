"""A training run: its specification, trainer, process group, train state and checkpoint."""
