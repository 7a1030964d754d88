"""What an attack found: a figure beside its bar."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One figure of one attack."""

    attack: str
    """The attack, and what of it was measured."""
    figure: float
    unit: str
    bar: float
    """The most that the figure may be, or the least where `at_least`."""
    at_least: bool = False
    by_clock: bool = False
    """Whether a slow machine alone can miss the bar. Such a figure is printed, and never asserted by a test."""
    notes: str = ""

    @property
    def passed(self) -> bool:
        """Whether the figure meets its bar."""
        return self.figure >= self.bar if self.at_least else self.figure <= self.bar

    def __str__(self) -> str:
        relation = ("<" if self.at_least else ">") if not self.passed else (">=" if self.at_least else "<=")
        return f"{self.attack}: {self.figure:.4g} {relation} {self.bar:.4g} {self.unit} {self.notes}".rstrip()
