"""What a person sees while the models are trained."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from segue_training.studies.agreement.config import AgreementConfig
from segue_training.studies.agreement.experiment import Outcome, Report, trials


@contextmanager
def progress(config: AgreementConfig, console: Console) -> Iterator[Report]:
    """Show each outcome as a line, and on a terminal a bar below."""
    columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=len(trials(config)))

        def report(outcome: Outcome) -> None:
            console.print(line(outcome), soft_wrap=True, highlight=False)
            bar.advance(task)

        yield report


def line(outcome: Outcome) -> str:
    """Say in a line what came of a trial."""
    trial = outcome.trial
    shares = " ".join(f"{accuracy:.2f}" for accuracy in outcome.accuracies)
    return f"{trial.architecture.upper():4} seed {trial.seed}, {trial.curriculum}: {shares}"
