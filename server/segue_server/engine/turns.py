"""Whose turn it is: tenants take turns, and so do the sequences of each."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice

from segue_server.engine.sequence import Sequence


class Turns:
    """Sequences that wait, each for the turn of its tenant."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[Sequence, None]] = {}
        """By tenant; tenants and the sequences of each in the order of their turns."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        return chain.from_iterable(self._queues.values())

    @property
    def tenants(self) -> int:
        """How many tenants have sequences here."""
        return len(self._queues)

    def add(self, sequence: Sequence) -> None:
        """Let a sequence that is not here wait behind the others of its tenant."""
        self._queues.setdefault(sequence.tenant, {})[sequence] = None
        self._count += 1

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is here."""
        queue = self._queues[sequence.tenant]
        del queue[sequence]
        if not queue:
            del self._queues[sequence.tenant]
        self._count -= 1

    def first(self) -> Sequence:
        """Return the sequence whose turn it is."""
        return next(iter(self))

    def take_turns(self, most: int, wanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Return up to `most` of the `wanted` sequences, of each tenant in turn the next one.

        So no tenant gets more of them than another that has more to give. They stay, at the end of their queues.
        """
        taken = self._deal(most, wanted) if self.tenants > 1 else list(islice(filter(wanted, self), most))
        for sequence in taken:
            queue = self._queues[sequence.tenant]
            del queue[sequence]
            queue[sequence] = None
        return taken

    def _deal(self, most: int, wanted: Callable[[Sequence], bool]) -> list[Sequence]:
        """Deal round by round; the next deal goes on where this one ends, or with whom it passed over."""
        taken = list[Sequence]()
        dealing = deque((tenant, filter(wanted, queue)) for tenant, queue in self._queues.items())
        counts = dict.fromkeys(self._queues, 0)
        through = list[str]()
        while dealing and len(taken) < most:
            tenant, sequences = dealing.popleft()
            sequence = next(sequences, None)
            if sequence is None:
                through.append(tenant)
                continue
            taken.append(sequence)
            counts[tenant] += 1
            dealing.append((tenant, sequences))
        passed_over = [tenant for tenant in through if not counts[tenant]]
        order = [*passed_over, *(tenant for tenant, _ in dealing), *(tenant for tenant in through if counts[tenant])]
        self._queues = {tenant: self._queues[tenant] for tenant in order}
        return taken
