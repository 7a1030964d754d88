"""What a text was read from, and what was left out."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from segue_training.data.file_names import shown
from segue_training.errors import BadRow

EXAMPLES: Final = 3
"""Names kept of what was left out for one reason."""


@dataclass(frozen=True)
class ReadText:
    """A file that was read to its end."""

    name: str
    characters: int
    """With line feeds as line ends, before any other normalization."""
    sha256: str
    """Of these characters as UTF-8, so that a compressed copy has the same."""


@dataclass(frozen=True)
class Skipped:
    """Files that were left out for the same reason."""

    reason: str
    count: int
    examples: tuple[str, ...]
    """Some of their names."""


@dataclass(frozen=True)
class Sources:
    """The files of a corpus."""

    texts: tuple[ReadText, ...] = ()
    """In the order in which they were read."""
    skipped: tuple[Skipped, ...] = ()
    bad_rows: int = 0
    """Lines that could not be read, and were left out."""
    first_bad_row: str = ""
    """What is wrong with the first."""

    @classmethod
    def of(cls, texts: Iterable[ReadText], skipped: Iterable[Skipped], bad_rows: "BadRows | None" = None) -> "Sources":
        """Count the empty ones among `texts` as skipped."""
        read, empty = [], Skips()
        for text in texts:
            if text.characters:
                read.append(text)
            else:
                empty.add("empty", text.name)
        rows = bad_rows or BadRows()
        return cls(tuple(read), (*skipped, *empty.all()), rows.count, rows.first)

    @property
    def characters(self) -> int:
        """Of all texts together."""
        return sum(text.characters for text in self.texts)

    @property
    def copies(self) -> list[tuple[ReadText, ReadText]]:
        """Return each text that was read before, after the first of its content."""
        first: dict[str, ReadText] = {}
        return [(before, text) for text in self.texts if (before := first.setdefault(text.sha256, text)) is not text]


@dataclass
class BadRows:
    """Counts the lines that are left out."""

    count: int = 0
    first: str = ""

    def add(self, row: BadRow) -> None:
        """Take note of one."""
        self.first = self.first or str(row)
        self.count += 1


@dataclass(frozen=True)
class Skips:
    """Collects what is left out, without keeping every name."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, reason: str, path: Path | str) -> None:
        """Take note of a file, or of a folder with all that is in it."""
        self.counts[reason] += 1
        if len(self.examples[reason]) < EXAMPLES:
            self.examples[reason].append(path if isinstance(path, str) else shown(str(path)))

    def all(self) -> tuple[Skipped, ...]:
        """Return what was noted, the most frequent reason first."""
        return tuple(Skipped(reason, n, tuple(self.examples[reason])) for reason, n in self.counts.most_common())
