"""The learning rate of each step: a function of the step and the configuration alone.

A run that is continued for more steps thus follows the schedule of its new length, as if it had been started with it.
"""

import math

from segue_training.recipes import TrainingConfig


def warmed(step: int, rate: float, warmup: int) -> float:
    """Return the learning rate at step 0, 1, ... of a linear warm-up to `rate`."""
    return rate * min(1.0, (step + 1) / (warmup + 1))


def cosine(step: int, steps: int) -> float:
    """Return the factor of the cosine schedule, from 1 at step 0 to 0 at `steps` (Loshchilov and Hutter 2017)."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate at step 0, 1, ...: a linear warm-up times a constant or a cosine that ends at 0."""
    warm = warmed(step, config.learning_rate, config.warmup)
    return warm if config.schedule == "constant" else warm * cosine(step, config.steps)


def change(taken: int, before: TrainingConfig, after: TrainingConfig) -> str:
    """Say how the learning rate goes on after `taken` steps with another configuration; "" if it does as before."""
    was, now = (learning_rate(max(taken - 1, 0), before), learning_rate(taken, after))
    if _words(before) == _words(after) and before.learning_rate == after.learning_rate:
        return ""
    return f"learning rate: {was:.2g} at step {taken:,} ({_words(before)}); it goes on at {now:.2g} ({_words(after)})"


def _words(config: TrainingConfig) -> str:
    return "constant" if config.schedule == "constant" else f"cosine over {config.steps:,} steps"
