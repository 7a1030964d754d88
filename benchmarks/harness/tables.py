"""How benchmarks print: a table for people, or one JSON object for scripts."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from harness.machine import hardware

Row = Mapping[str, Any]
"""What was measured, by the key of its column. None: does not apply."""


@dataclass(frozen=True)
class Column:
    """One figure of every row."""

    key: str
    heading: str
    form: str = ""
    """As in str.format: ",.0f"."""

    def cell(self, row: Row) -> str:
        """Return the figure as it is printed."""
        value = row.get(self.key)
        return "-" if value is None else format(value, self.form)


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def numbers(text: str) -> list[int]:
    """Read "1,8,64"."""
    return [int(number) for number in text.split(",")]


def show(title: str, columns: Sequence[Column], rows: Sequence[Row], *, as_json: bool, **facts: Any) -> None:
    """Print rows, what they were measured on, and further facts about the run."""
    if as_json:
        print(json.dumps({"title": title, "hardware": hardware(), **facts, "rows": [_rounded(row) for row in rows]}))
        return
    table = Table(title=title, caption=f"{hardware()}", title_justify="left", caption_justify="left")
    for column in columns:
        text = any(isinstance(row.get(column.key), str) for row in rows)
        longest = max(map(len, column.heading.split()), default=0)
        table.add_column(column.heading, justify="left" if text else "right", min_width=longest)
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns))
    console = Console(width=None if Console().is_terminal else _WIDTH)
    console.print(table)
    for name, fact in facts.items():
        console.print(f"{name.replace('_', ' ')}: {fact}", highlight=False)
    console.print()


_WIDTH: Final = 200
"""Of a table that is written to a file."""


def _rounded(row: Row) -> dict[str, Any]:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}
