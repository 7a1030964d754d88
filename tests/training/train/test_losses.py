import math

import pytest
import torch
from segue_training.train.losses import PendingLosses, StepLoss


def test_losses_are_read_in_order_and_once() -> None:
    pending = PendingLosses(3)
    for step in (1, 2, 3):
        assert not pending.is_full
        pending.add(step, torch.tensor(step / 3), torch.tensor(step / 7))
    assert pending.is_full
    assert pending.read() == [StepLoss(s, float(torch.tensor(s / 3)), float(torch.tensor(s / 7))) for s in (1, 2, 3)]
    assert pending.read() == []
    assert not pending.is_full


def test_a_figure_is_that_of_its_step_though_its_tensor_changes_later() -> None:
    """As the outputs of a graph do."""
    pending, loss = PendingLosses(2), torch.tensor(1.0)
    pending.add(1, loss, loss)
    loss.fill_(math.nan)
    assert pending.read() == [StepLoss(1, 1.0, 1.0)]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(broken: float) -> None:
    pending = PendingLosses(1)
    pending.add(7, torch.tensor(broken), torch.tensor(1.0))
    (read,) = pending.read()
    assert not math.isfinite(read.loss)
