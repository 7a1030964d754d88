"""One call's use of an engine: its sequences are counted as its owner's, and take the owner's turns."""

import asyncio
from collections.abc import Callable

from segue_server.engine.sequence import Sequence
from segue_server.runtime.engine_thread import EngineThread, Stream
from segue_server.runtime.owner import Owner


class EngineShare:
    """Opens and closes sequences for one call."""

    def __init__(self, engine_thread: EngineThread, owner: Owner, settle: Callable[[], None]) -> None:
        """`settle` is called with the first sequence: what was expected of the call is known from then on."""
        self._engine_thread = engine_thread
        self._owner = owner
        self._settle = settle

    @property
    def draining(self) -> asyncio.Event:
        """Set when every sequence is being ended at its current character."""
        return self._engine_thread.draining

    def open(self, sequence: Sequence) -> Stream:
        """Add `sequence` to the engine. `close` must follow, however the stream ends."""
        self._settle()
        return self._engine_thread.open(sequence, self._owner)

    def end(self, sequence: Sequence) -> None:
        """End `sequence` at its current character, with its state."""
        self._engine_thread.end(sequence)

    def close(self, sequence: Sequence) -> None:
        """Forget the stream of `sequence`."""
        self._engine_thread.close(sequence)
