"""How large the check is: in full on a GPU, and small on a CPU, where it only shows that it runs."""

from dataclasses import dataclass
from typing import Final

from segue_server.engine.runners.settings import BUCKETS

Size = tuple[int, int]
"""Layers and hidden units."""


@dataclass(frozen=True)
class Scale:
    """Sizes of models and batches, and seconds of each timing."""

    on_gpu: bool
    sizes: tuple[Size, ...]
    rows: tuple[int, ...]
    """Rows of the runs that are compared and timed; they are what `buckets` holds, and some between."""
    buckets: tuple[int, ...]
    alone: int
    """Streams that run together, and each by itself."""
    served: tuple[tuple[int, int], ...]
    """Streams over gRPC, and the characters of each."""
    symbols: int
    """Of each text that is scored to measure speed."""
    seconds: float
    """Of each timing."""
    corpus: str = "pydoc"
    """What is trained on."""
    seconds_left: float = 60.0
    """For all that is still to be checked."""

    @property
    def device(self) -> str:
        """As `segue serve` calls it."""
        return "cuda" if self.on_gpu else "cpu"

    @property
    def middle(self) -> Size:
        """The size that the goals speak of."""
        return self.sizes[1]


FULL: Final = Scale(
    on_gpu=True,
    sizes=((1, 256), (2, 512), (3, 1024)),
    rows=(1, 2, 7, 8, 33, 64, 256, 1000, 1024, 4096),
    buckets=BUCKETS,
    alone=64,
    served=((1, 10_000), (64, 4_000), (1024, 1_000)),
    symbols=4096,
    seconds=0.3,
)
SMALL: Final = Scale(
    on_gpu=False,
    sizes=((1, 16), (2, 24)),
    rows=(1, 3, 8),
    buckets=(1, 4, 8),
    alone=6,
    served=((1, 500), (4, 500)),
    symbols=64,
    seconds=0.05,
)
