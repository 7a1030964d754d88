"""The settings of a connection."""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from segue_client.protocol.addresses import Addresses
from segue_client.protocol.deadline import Deadline, seconds
from segue_client.protocol.retry import RetryState


@dataclass(frozen=True, kw_only=True)
class ConnectionSettings:
    """The arguments of a client; see `Client`."""

    target: str | Sequence[str]
    timeout: float | None
    tenant: str
    resume: bool
    resume_seconds: float
    max_message_bytes: int
    credentials: grpc.ChannelCredentials | None

    def __post_init__(self) -> None:
        Deadline.after(self.timeout)
        seconds("resume_seconds", self.resume_seconds)

    def resumes(self, resume: bool | None) -> bool:
        """Return whether a call resumes after a break; None: the client's setting."""
        return self.resume if resume is None else resume

    def retry_state(
        self, addresses: Addresses, timeout: float | None, *, resume: bool | None, in_session: bool
    ) -> RetryState:
        """Return the retry state of a new call; None: the client's setting."""
        return RetryState(
            addresses,
            Deadline.after(self.timeout if timeout is None else timeout),
            self.resume_seconds if self.resumes(resume) else None,
            in_session=in_session,
        )
