from pathlib import Path

import pytest
from segue_training.train.checkpoint import Checkpoint, save_checkpoint


@pytest.fixture
def checkpoint_folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    return tmp_path / "checkpoint"
