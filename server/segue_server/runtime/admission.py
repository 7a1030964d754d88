"""A bounded number of sequences; a request beyond it is refused at once, with a hint when to retry."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segue_server.errors import InvalidRequest, Overloaded

GiveBack = Callable[[], None]
"""Gives one place back."""


class Admission:
    """A fixed number of places, counted on the event loop's thread alone."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0

    @contextmanager
    def places(self, wanted: int) -> Iterator[int]:
        """Take as many places as are free, 1 to `wanted`, and yield how many; raises Overloaded if none is."""
        granted = max(1, min(wanted, self._places - self._taken))
        with self.exactly(granted):
            yield granted

    @contextmanager
    def exactly(self, wanted: int) -> Iterator[GiveBack]:
        """Take `wanted` places and yield a function that gives one of them back early; at the end, all are free.

        Raises Overloaded if fewer are free now, and InvalidRequest if the server has fewer.
        """
        self._check(wanted)
        self._taken += wanted
        held = wanted

        def give_back() -> None:
            nonlocal held
            self._taken -= 1
            held -= 1

        try:
            yield give_back
        finally:
            self._taken -= held

    def _check(self, wanted: int) -> None:
        if wanted > self._places:
            raise InvalidRequest(f"{wanted} sequences at once: this server has places for {self._places}; send less")
        free = self._places - self._taken
        if not free:
            raise Overloaded(f"all {self._places} places for sequences are taken; retry shortly")
        if wanted > free:
            raise Overloaded(f"{wanted} places for sequences are needed, {free} of {self._places} free; retry shortly")
