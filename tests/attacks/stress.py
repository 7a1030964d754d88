"""Run every attack in its full form against servers of this machine; print one table of figures and bars.

    python -m attacks.stress [NAME ...]      from the folder `tests`; a part of an attack's name chooses it

Ends with 1 if a bar is missed. Nothing else should run beside it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from attacks.catalogue import GROUPS, Attack
from attacks.harness.finding import Finding
from attacks.harness.models import write_attacked_model


def run(attacks: list[Attack], console: Console) -> list[Finding]:
    """Run the attacks one after another; an attack that cannot end is a missed bar."""
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as folder:
        write_attacked_model(Path(folder))
        for attack in track(attacks, "attacks", console=console, transient=True):
            try:
                found = attack.run(Path(folder))
            except Exception as error:  # noqa: BLE001 - the others are still of interest
                console.print_exception()
                found = [Finding(f"{attack}: broke off", 1, "attacks", 0, notes=repr(error)[:100])]
            for finding in found:
                console.print(f"{'passed' if finding.passed else 'MISSED'}  {finding}", highlight=False, soft_wrap=True)
            findings += found
    return findings


def table(findings: list[Finding]) -> Table:
    """Return a row for each figure."""
    made = Table(title="attacks on segue serve", title_justify="left")
    for heading, side in (
        ("attack", "left"),
        ("figure", "right"),
        ("bar", "right"),
        ("unit", "left"),
        ("", "left"),
        ("notes", "left"),
    ):
        made.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    for each in findings:
        bar = f"{'>=' if each.at_least else '<='} {each.bar:,.4g}"
        made.add_row(
            each.attack, f"{each.figure:,.4g}", bar, each.unit, "passed" if each.passed else "MISSED", each.notes
        )
    return made


def main() -> None:
    """Attack and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--small", action="store_true", help="the sizes of the tests")
    arguments = parser.parse_args()
    every = [attack for group in GROUPS for attack in (group.small if arguments.small else group.full)]
    chosen = [attack for attack in every if not arguments.names or any(name in attack.name for name in arguments.names)]
    findings = run(chosen, Console(stderr=True))
    console = Console(width=None if Console().is_terminal else 200)
    console.print(table(findings))
    missed = sum(not finding.passed for finding in findings)
    console.print(f"{len(findings)} figures, {missed} bars missed")
    sys.exit(int(missed > 0))


if __name__ == "__main__":
    main()
