"""Whose call it is: the key by which clients share the server."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Owner:
    """The client of a call."""

    connection: str
    """The peer's address, unique to a connection."""
    tenant: str
    """"": none is named."""
    patient: bool = False
    """Whether the call's deadline lets it wait longer than others: it queues with its like."""

    @property
    def host(self) -> str:
        """The peer's address without its port."""
        return self.connection.rpartition(":")[0]

    @property
    def group(self) -> str:
        """Those who share one turn of a full engine."""
        return f"{self.tenant}+" if self.patient else self.tenant


NOBODY = Owner("", "")
