from collections.abc import Iterator

import pytest
from segue_training.reports import summary


@pytest.fixture(autouse=True, scope="module")
def _short_samples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "SAMPLED", 30)
        yield
