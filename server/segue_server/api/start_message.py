"""Starts on the wire: the Start of a request, and the Continuation of its reply."""

from segue.v1 import common_pb2

from segue_server.engine.build import Build
from segue_server.limits import LIMITS
from segue_server.state.start import SessionReference, StartRequest, StartState
from segue_server.validation import check_at_most


def read_start(start: common_pb2.Start) -> StartRequest:
    """Check and translate `start`; raises InvalidRequest."""
    exact = start.exact if start.HasField("exact") else True
    match start.WhichOneof("from"):
        case "ticket":
            return StartRequest(exact, ticket=start.ticket)
        case "session":
            return StartRequest(exact, session=read_session(start.session))
        case _:
            return StartRequest(exact)


def read_session(reference: common_pb2.SessionReference) -> SessionReference:
    """Check and translate `reference`; raises InvalidRequest."""
    check_at_most("characters of request_key", len(reference.request_key), LIMITS.max_request_key)
    position = reference.position if reference.HasField("position") else None
    return SessionReference(reference.name, position, reference.request_key)


def continuation(start: StartState, here: Build, *, reproducible: bool) -> common_pb2.Continuation:
    """Return what a reply says about its start; `here` is the build that continues from it."""
    return common_pb2.Continuation(
        exact=start.exact,
        sha256=here.sha256.hex(),
        host_class=here.host_class.hex(),
        position=0 if start.state is None else start.state.position,
        reproducible=reproducible,
    )
