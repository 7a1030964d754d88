"""What a client was told about its connection: the same for the synchronous and the asynchronous one."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from segue_client.protocol.addresses import Addresses
from segue_client.protocol.deadline import Deadline
from segue_client.protocol.retry import RetryState


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """See `Client`."""

    target: str | Sequence[str]
    timeout: float | None
    tenant: str
    resume: bool
    resume_seconds: float
    max_message_bytes: int
    credentials: grpc.ChannelCredentials | None

    def resumes(self, resume: bool | None) -> bool:
        """Return whether a call that was given this goes on after a break; None: as the client was told."""
        return self.resume if resume is None else resume

    def resumption(self, addresses: Addresses, timeout: float | None, *, resume: bool | None) -> RetryState:
        """Return what a call that was given these does about its failures; None: as the client was told."""
        return RetryState(
            addresses,
            Deadline.after(self.timeout if timeout is None else timeout),
            self.resume_seconds if self.resumes(resume) else None,
        )
