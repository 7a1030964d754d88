"""What a check found: one line of the table."""

import json
from dataclasses import asdict, dataclass
from typing import Self


@dataclass(frozen=True)
class Finding:
    """A figure, or a statement, and whether it is as it must be."""

    what: str
    value: float | str
    unit: str = ""
    passed: bool | None = None
    """None: nothing was demanded."""
    note: str = ""

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """Return what `to_json` wrote."""
        return cls(**json.loads(line))

    @property
    def shown(self) -> str:
        """The value as it is printed."""
        if isinstance(self.value, str):
            return self.value
        figure = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.4g}"
        return f"{figure} {self.unit}".strip()
