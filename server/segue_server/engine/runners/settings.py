"""How a model runs on a device."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

BUCKETS: Final = (1, 8, 64, 256, 1024, 4096)
"""Numbers of rows that are run, ascending."""
FIXED_BUCKETS: Final = (256,)
"""The same where results may not depend on how many rows there are."""
MOST_FLOAT16_RISE: Final = 0.005
"""By which share the perplexity may rise before float16 is no default."""


class Precision(StrEnum):
    """In what a device multiplies matrices. h and c, gates and probabilities are float32 in any case."""

    AUTO = "auto"
    """float16 where export has measured that it costs at most `MOST_FLOAT16_RISE`, otherwise float32."""
    FLOAT32 = "float32"
    FLOAT16 = "float16"
    TF32 = "tf32"
    """float32 whose products round their operands to 10 bits."""


class Batching(StrEnum):
    """Whether results may depend on who else is served: a device's library chooses kernels by the batch's size."""

    FIXED = "fixed"
    """Every run is filled up to one number of rows: a sequence gets what it gets alone, to the bit."""
    FREE = "free"
    """Runs have as many rows as there are sequences, roughly: faster for one and for thousands."""

    @property
    def buckets(self) -> tuple[int, ...]:
        """Numbers of rows that are run."""
        return FIXED_BUCKETS if self is Batching.FIXED else BUCKETS


@dataclass(frozen=True)
class DeviceSettings:
    """How a model runs on a device; none of it matters on the CPU."""

    buckets: tuple[int, ...] = FIXED_BUCKETS
    precision: Precision = Precision.AUTO
    simulated: bool = False
    """Keep a device's rules on the CPU, for tests."""
