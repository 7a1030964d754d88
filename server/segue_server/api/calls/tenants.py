"""The tenant of a call. Tenants cannot use each other's tickets, sessions and cached prefixes.

The call's metadata names it; a proxy that authenticates callers must set it.
"""

import re
from typing import Any, Final

import grpc.aio

from segue_server.errors import InvalidRequest

TENANT_KEY: Final = "segue-tenant"
_TENANT: Final = re.compile(r"[A-Za-z0-9._-]{0,64}")


def tenant_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the tenant of a call, "" if it names none; raises InvalidRequest."""
    named = [value for key, value in context.invocation_metadata() or () if key == TENANT_KEY]
    if len(named) > 1:
        raise InvalidRequest(f"{len(named)} values of {TENANT_KEY} in the metadata; send one")
    tenant = named[0] if named else ""
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant):
        raise InvalidRequest(f"{TENANT_KEY} is {tenant!r:.80}; it must be up to 64 of A-Z a-z 0-9 . _ -")
    return tenant
