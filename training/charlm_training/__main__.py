"""`python -m charlm_training` is `charlm train`, in the form that torchrun starts."""

import sys

from charlm_training.cli import train
from charlm_training.errors import TrainingError

if __name__ == "__main__":
    try:
        train.main(prog_name="charlm train", standalone_mode=False)
    except TrainingError as error:
        print(f"charlm: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
