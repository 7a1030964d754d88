"""`python -m charlm_training` is `charlm train`, in the form that torchrun starts."""

import signal
import sys

import click

from charlm_training.cli import train
from charlm_training.errors import TrainingError

if __name__ == "__main__":
    try:
        train.main(prog_name="charlm train", standalone_mode=False)
    except TrainingError as error:
        print(f"charlm: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:  # Ctrl-C before there was a step to save
        sys.exit(128 + signal.SIGINT)
