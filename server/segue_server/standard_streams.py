"""The process's standard streams, where its starter closed some of them (`segue serve models >&-`).

The next file that is opened gets the lowest free number: a store of sessions would be standard error, and every line
that a library writes there would damage it.
"""

import os


def fill_closed_streams() -> None:
    """Put the null device in place of each standard stream that is closed; for the start of a process."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def write_line(text: str) -> None:
    """Write a line to standard output at once. Raises OSError, and leaves nothing to be written later."""
    os.write(1, f"{text}\n".encode())
