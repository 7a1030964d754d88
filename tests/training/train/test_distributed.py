import pytest
import torch
from segue_training.train.distributed import ProcessGroup


@pytest.mark.parametrize("rows", [1, 3, 4, 8])
def test_the_processes_share_out_all_rows_in_their_order(rows: int) -> None:
    """Also for a group of documents that a single process left, with fewer rows than processes."""
    whole = torch.randn(2, rows, 3)
    parts = [ProcessGroup(rank, 4).own_rows(whole) for rank in range(4)]
    assert torch.equal(torch.cat(parts, dim=1), whole)
