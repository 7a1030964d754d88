"""When sessions may have expired: keys in buckets by their time, so that looking for them costs little."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

BUCKET_SECONDS: Final = 60
"""Keys come due at most this much late."""


class ExpiryQueue(Generic[Key]):
    """Keys, each with a time at which somebody wants to look at it."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Key, None]] = {}
        self._order: list[int] = []
        """The numbers of the buckets, as a heap. A bucket stays, though it be empty, until its time has come."""
        self._bucket_of: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._bucket_of)

    def set(self, key: Key, time: float) -> None:
        """Have `key`, which is not there, come due at `time`."""
        number = int(time // BUCKET_SECONDS) + 1
        if number not in self._buckets:
            self._buckets[number] = {}
            heapq.heappush(self._order, number)
        self._buckets[number][key] = None
        self._bucket_of[key] = number

    def remove(self, key: Key) -> None:
        """Forget `key`."""
        del self._buckets[self._bucket_of.pop(key)][key]

    def take_due(self, now: float, limit: int) -> Iterator[Key]:
        """Yield up to `limit` keys that are due at `now`, each of which is forgotten."""
        while limit and self._order and self._order[0] * BUCKET_SECONDS <= now:
            bucket = self._buckets[self._order[0]]
            if not bucket:
                del self._buckets[heapq.heappop(self._order)]
                continue
            key, _ = bucket.popitem()
            del self._bucket_of[key]
            limit -= 1
            yield key
