"""Something that the server has a fixed amount of, and that its clients share.

Nobody can take it all: beyond an assured amount, a connection may hold at most as much as it leaves free. One alone
gets half, a second one half of the rest. If several tenants hold some, or several hosts, the same is true for each of
them. (Dynamic thresholds: A. K. Choudhury and E. L. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
Switches", IEEE/ACM Transactions on Networking 6(2), 1998.)

Many connections of one client would leave little all the same. So the last part is for hosts that have no more than
what is assured, and the part before that also for such tenants.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from segue_server.errors import InvalidRequest, Overloaded
from segue_server.runtime.owner import Owner

SHARE: Final = 1
"""What one may hold, as a multiple of what is free then."""
PARTS: Final = 32
"""That the total is divided into, to keep some for those who have next to nothing."""


class Shared:
    """Counts what is taken and by whom. For the event loop's thread alone."""

    def __init__(self, what: str, total: int, assured: int) -> None:
        """Share `total`. `what`: its name, in the plural; `assured`: what anyone may hold as long as it is free."""
        self.what = what
        self.total = total
        self.taken = 0
        self.refused = 0
        """How many calls have asked in vain."""
        self._assured = assured
        self._part = total // PARTS
        self._by_connection: Counter[str] = Counter()
        self._by_tenant: Counter[str] = Counter()
        self._by_host: Counter[str] = Counter()

    @property
    def free(self) -> int:
        """How much nobody has taken."""
        return self.total - self.taken

    def take(self, owner: Owner, amount: int) -> None:
        """Take `amount`; raises InvalidRequest if there is never that much, and Overloaded if there is not now."""
        if amount > self.total:
            raise InvalidRequest(f"{self.what}: {amount:,} needed; this server has {self.total:,}: send less")
        self.require(owner, amount)
        self.taken += amount
        for held, key in self._holders(owner):
            held[key] += amount

    def give_back(self, owner: Owner, amount: int) -> None:
        """Give back what was taken."""
        self.taken -= amount
        for held, key in self._holders(owner):
            held[key] -= amount
            if not held[key]:
                del held[key]

    def require(self, owner: Owner, amount: int) -> None:
        """Raise Overloaded if `owner` cannot take `amount` now."""
        if amount > self.free:
            self.refused += 1
            raise Overloaded(f"{self.what}: {amount:,} needed, {self.free:,} of {self.total:,} free; retry shortly")
        if not self.is_fair(owner, amount):
            self.refused += 1
            raise Overloaded(
                f"{self.what}: {amount:,} needed, and your connection or tenant has its share of {self.total:,}; "
                "wait for its other calls to end, or retry shortly"
            )

    @contextmanager
    def held(self, owner: Owner, amount: int) -> Iterator[None]:
        """Take `amount` for the length of the block; raises like `take`."""
        self.take(owner, amount)
        try:
            yield
        finally:
            self.give_back(owner, amount)

    def is_fair(self, owner: Owner, amount: int) -> bool:
        """Whether `owner` would have no more than its share with `amount` more."""
        left = self.free - amount
        if left < self._kept_before(owner, amount):
            return False
        most = max(self._assured, SHARE * left)
        if self._by_connection[owner.connection] + amount > most:
            return False
        return all(
            held[key] + amount <= most or len(held) == (key in held)  # alone, a tenant or host has all there is
            for held, key in ((self._by_tenant, owner.tenant), (self._by_host, owner.host))
        )

    def _kept_before(self, owner: Owner, amount: int) -> int:
        """Return how much is kept for others where `owner` wants `amount` more."""
        if self._by_host[owner.host] + amount <= self._assured:
            return 0
        return self._part if self._by_tenant[owner.tenant] + amount <= self._assured else 2 * self._part

    def fair(self, owner: Owner, most: int) -> int:
        """Return how much `owner` can take now, 0 to `most`."""
        fitting = min(most, self.free)
        while fitting and not self.is_fair(owner, fitting):
            fitting //= 2
        return fitting

    def _holders(self, owner: Owner) -> tuple[tuple[Counter[str], str], ...]:
        return (
            (self._by_connection, owner.connection),
            (self._by_tenant, owner.tenant),
            (self._by_host, owner.host),
        )


class Holding:
    """What one call holds of it."""

    def __init__(self, shared: Shared, owner: Owner) -> None:
        self._shared = shared
        self._owner = owner
        self.amount = 0

    def hold(self, amount: int) -> None:
        """Hold `amount` from now on, more or less than before; raises like `Shared.take`."""
        if amount > self.amount:
            self._shared.take(self._owner, amount - self.amount)
        elif amount < self.amount:
            self._shared.give_back(self._owner, self.amount - amount)
        self.amount = amount

    def hold_anyway(self, amount: int) -> None:
        """Hold `amount` though there may be less: what is held can no longer be refused."""
        self._shared.give_back(self._owner, self.amount - amount)
        self.amount = amount
