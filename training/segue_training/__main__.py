"""`python -m segue_training` is `segue train`, in the form that torchrun needs."""

import signal
import sys

import click

from segue_training.cli import train
from segue_training.errors import TrainingError

if __name__ == "__main__":
    try:
        train.main(prog_name="segue train", standalone_mode=False)
    except TrainingError as error:
        print(f"segue: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:  # Ctrl-C before the first step
        sys.exit(128 + signal.SIGINT)
