"""Places for sequences. What has no place is refused at once, with a hint when to retry."""

from collections.abc import Iterator
from contextlib import contextmanager

from charlm_server.errors import Overloaded


class Admission:
    """A fixed number of places, counted on the event loop's thread alone."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0

    @contextmanager
    def places(self, wanted: int) -> Iterator[int]:
        """Take as many places as are free, 1 to `wanted`, and yield how many; raises Overloaded where none is."""
        granted = min(wanted, self._places - self._taken)
        if granted < 1:
            raise Overloaded(f"all {self._places} places for sequences are taken; retry shortly")
        self._taken += granted
        try:
            yield granted
        finally:
            self._taken -= granted
