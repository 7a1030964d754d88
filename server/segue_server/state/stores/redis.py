"""Sessions in Redis (6.2 or newer), shared by the replicas of a server.

    segue:{TENANT/MODEL}/NAME    revision, 8 bytes; idle seconds, 4 bytes, both little-endian; the record
    segue:{TENANT/MODEL}         sorted set of the names, for listing

A session's idle time is the time to live of its key, by Redis's own clock. The set of names lives as long as its
longest-lived session; names of expired sessions are removed when a listing meets them, and a few with every new
session. Each command is one script, which Redis runs atomically.

One connection carries all commands; those that wait together share a round trip. Any error closes the connection and
fails everything in progress, so a reply can never reach another command. Nothing is sent twice. Within 0.1 seconds (or
the URL's timeout), connecting included, Redis answers or all waiting commands fail; the next command reconnects.

Redis must keep its data: one with an eviction policy is refused at the start, and one that is full (`maxmemory` with
the policy noeviction) refuses new sessions and longer records.

Where Redis answers with an error (it became a replica, is loading, took a right away), that command fails, and the
connection is closed all the same: the next one asks anew where the address leads.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from segue_server.errors import StartupError, StoreFull, StoreUnavailable
from segue_server.state.clock import CLOCK
from segue_server.state.stores.batch_thread import BatchThread
from segue_server.state.stores.store import Entry, new_revision

_TIMEOUT_SECONDS: Final = 0.1
_MAX_BATCH: Final = 32
"""Commands in one round trip: 256 reads of 130 KB (a rewindable session of a 2 x 1024 model) exceeded the timeout."""
_LONGEST_TIMEOUT_SECONDS: Final = 60.0
_START_SECONDS: Final = 5.0
_REVISION_BYTES: Final = 8
_HEAD_BYTES: Final = 12
_OUT_OF_MEMORY: Final = "OOM command not allowed"
"""In Redis 6, within the text of another error."""
_NAMES_CHECKED: Final = 4
"""With every new session: more than the one added, so that names of expired sessions do not pile up."""

_PROLONG: Final = """
local function prolong(session, names, idle)
    redis.call('EXPIRE', session, idle)
    if redis.call('PTTL', names) < 1000 * idle then redis.call('EXPIRE', names, idle + 1) end
end
"""

_GET: Final = """
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'table' then
    if string.find(value['err'], 'WRONGTYPE', 1, true) then value = '' else return value end
end
"""
"""A key of another type counts as empty."""

_FETCH: Final = (
    _PROLONG
    + _GET
    + f"""
if value and #value >= {_HEAD_BYTES} then
    if redis.pcall('ZSCORE', KEYS[2], ARGV[1]) == false then redis.pcall('ZADD', KEYS[2], 0, ARGV[1]) end
    prolong(KEYS[1], KEYS[2], (struct.unpack('<I4', value, 9)))
end
return value
"""
)

_PEEK: Final = _GET + "return {value, redis.call('PTTL', KEYS[1])}"

_CREATE: Final = (
    _PROLONG
    + f"""
local idle = tonumber(ARGV[1])
for i = 2, #KEYS do
    if redis.call('EXISTS', KEYS[i]) == 1 then return ARGV[2 * i - 2] end
end
for i = 2, #KEYS do redis.call('ZADD', KEYS[1], 0, ARGV[2 * i - 2]) end
for i = 2, #KEYS do
    redis.call('SET', KEYS[i], ARGV[2 * i - 1])
    prolong(KEYS[i], KEYS[1], idle)
end
for _, name in ipairs(redis.call('ZRANDMEMBER', KEYS[1], {_NAMES_CHECKED})) do
    if redis.call('EXISTS', KEYS[1] .. '/' .. name) == 0 then redis.call('ZREM', KEYS[1], name) end
end
return false
"""
)

_REPLACE: Final = (
    _PROLONG
    + """
local head = redis.call('GETRANGE', KEYS[1], 0, 11)
if string.sub(head, 1, 8) ~= ARGV[1] then return 0 end
local value = ARGV[2] .. string.sub(head, 9) .. ARGV[3]
local idle = struct.unpack('<I4', head, 9)
if #value <= redis.call('STRLEN', KEYS[1]) then prolong(KEYS[1], KEYS[2], idle) end
redis.call('SET', KEYS[1], value)
redis.pcall('ZADD', KEYS[2], 0, ARGV[4])
prolong(KEYS[1], KEYS[2], idle)
return 1
"""
)
"""A full Redis refuses a script's first write if that is SET, but no later one: EXPIRE, which it never refuses, comes
first where the record does not grow."""

_DELETE: Final = """
if redis.call('GETRANGE', KEYS[1], 0, 7) ~= ARGV[1] then return 0 end
redis.pcall('ZREM', KEYS[2], ARGV[2])
return redis.call('DEL', KEYS[1])
"""

_NAMES: Final = """
local names = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, ARGV[2])
local found = {}
for _, name in ipairs(names) do
    if redis.call('EXISTS', KEYS[1] .. '/' .. name) == 1 then
        table.insert(found, name)
    else
        redis.call('ZREM', KEYS[1], name)
    end
end
return {#names, names[#names] or '', found}
"""

_CHECK: Final = "redis.call('ZRANDMEMBER', KEYS[1], 1) return redis.call('DEL', KEYS[1])"
"""Fails if Redis is too old, or read-only."""


@dataclass(frozen=True)
class RedisAddress:
    """The address of a Redis server, and the credentials."""

    host: str
    port: int
    database: int
    username: str | None
    password: str | None
    tls: bool
    timeout: float = _TIMEOUT_SECONDS
    """Seconds for one round trip, connecting included."""

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Parse redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE][?timeout=SECONDS]; raises ValueError."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)) if parts.query else {}
        timeout = float(options.pop("timeout", _TIMEOUT_SECONDS))
        database = parts.path.removeprefix("/") or "0"
        if not parts.hostname or options or parts.fragment or not (database.isascii() and database.isdigit()):
            raise ValueError
        if not 0 < timeout <= _LONGEST_TIMEOUT_SECONDS:
            raise ValueError
        username, password = (unquote(part) if part else None for part in (parts.username, parts.password))
        tls = parts.scheme == "rediss"
        return cls(parts.hostname, parts.port or 6379, int(database), username, password, tls, timeout)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


class RedisStore:
    """Sessions in a Redis server."""

    def __init__(self, address: RedisAddress) -> None:
        self._thread = BatchThread(_Link(address), str(address), _MAX_BATCH)

    async def open(self) -> None:
        """Connect; raises StartupError if Redis does not answer, or is unfit for sessions."""
        await self._thread.start()

    async def fetch(self, space: str, name: str) -> Entry | None:
        """Return a session and restart its idle time."""
        value: bytes | None = await self._do(_FETCH, [_session(space, name), _names(space)], name)
        return None if value is None else _entry(value)

    async def peek(self, space: str, name: str) -> Entry | None:
        """Return a session without restarting its idle time."""
        value, milliseconds = await self._do(_PEEK, [_session(space, name)])
        return None if value is None else _entry(value, milliseconds / 1000)

    async def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return None, or a name that is taken."""
        arguments: list[bytes | str | int] = [idle_seconds]
        for name, record in records.items():
            arguments += [name, _new_revision() + idle_seconds.to_bytes(4, "little") + record]
        keys = [_names(space), *(_session(space, name) for name in records)]
        taken: bytes | None = await self._do(_CREATE, keys, *arguments)
        return None if taken is None else taken.decode()

    async def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Replace the record of `expected_revision`; return False if that revision is gone."""
        keys = [_session(space, name), _names(space)]
        return bool(await self._do(_REPLACE, keys, _revision(expected_revision), _new_revision(), record, name))

    async def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Delete the session of `expected_revision`; return False if that revision is gone."""
        keys = [_session(space, name), _names(space)]
        return bool(await self._do(_DELETE, keys, _revision(expected_revision), name))

    async def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names after `after`, in order."""
        found, count = list[str](), limit
        beyond = f"({after}".encode() if after else b"-"
        while count == limit > len(found):
            count, last, live = await self._do(_NAMES, [_names(space)], beyond, limit)
            found += [name.decode(errors="replace") for name in live]
            beyond = b"(" + last
        return found[:limit]

    async def close(self) -> None:
        """Release everything."""
        await self._thread.close()

    async def _do(self, script: str, keys: Sequence[str], *arguments: bytes | str | int) -> Any:
        return await self._thread.do(("EVAL", script, len(keys), *keys, *arguments))


_Command = tuple[bytes | str | int, ...]


class _Link:
    """The connection. Used by one thread."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._timeout = address.timeout
        self._loop: asyncio.AbstractEventLoop
        self._client: redis.asyncio.Redis

    def open(self) -> None:
        """Connect; raises StartupError if Redis does not answer, or is unfit for sessions."""
        self._loop = asyncio.new_event_loop()
        self._client = redis.asyncio.Redis(
            host=self._address.host,
            port=self._address.port,
            db=self._address.database,
            username=self._address.username,
            password=self._address.password,
            ssl=self._address.tls,
            socket_timeout=None,  # `run` has one for each batch
            socket_connect_timeout=_START_SECONDS,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        try:
            self._loop.run_until_complete(self._check())
        except (RedisError, OSError, TimeoutError) as error:
            self.close()
            reason = str(error) or f"no answer within {_START_SECONDS:g} seconds"
            raise StartupError(f"cannot keep sessions in {self._address}: {reason}; see --sessions") from error
        except StartupError:
            self.close()
            raise

    def run(self, commands: Sequence[_Command]) -> list[Any]:
        """Send all commands and return the replies; raises StoreUnavailable."""
        try:
            replies = self._loop.run_until_complete(self._exchange(commands))
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreUnavailable from (error if str(error) else TimeoutError(f"no answer in {self._timeout:g} s"))
        answers = [_failure(reply) if isinstance(reply, RedisError) else reply for reply in replies]
        if any(isinstance(answer, StoreUnavailable) for answer in answers):
            self._loop.run_until_complete(self._client.connection_pool.disconnect())
        return answers

    def tidy(self) -> bool:
        """Do nothing: Redis expires keys itself."""
        return False

    def close(self) -> None:
        """Release everything."""
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    async def _exchange(self, commands: Sequence[_Command]) -> list[Any]:
        async with asyncio.timeout(self._timeout):
            await asyncio.sleep(0)  # lets asyncio notice that Redis has closed the connection
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))

    async def _check(self) -> None:
        async with asyncio.timeout(_START_SECONDS):
            memory: dict[str, Any] = await self._client.info("memory")
            policy = memory.get("maxmemory_policy", "noeviction")
            if memory.get("maxmemory") and policy != "noeviction":
                raise StartupError(
                    f"{self._address} would evict sessions when it is full (maxmemory-policy {policy}); "
                    "set its maxmemory-policy to noeviction, or use another Redis"
                )
            await self._client.eval(_CHECK, 1, "segue:")


def _failure(error: RedisError) -> StoreFull | StoreUnavailable:
    """Return the error for the caller of one failed command."""
    if isinstance(error, OutOfMemoryError) or _OUT_OF_MEMORY in str(error):
        return StoreFull("the server has no room for more sessions; close some, or retry after some have expired")
    failure = StoreUnavailable()
    failure.__cause__ = error.with_traceback(None)
    return failure


def _names(space: str) -> str:
    """Return the key of a space's names; the braces keep its keys on one cluster node."""
    return f"segue:{{{space}}}"


def _session(space: str, name: str) -> str:
    return f"{_names(space)}/{name}"


def _revision(revision: int) -> bytes:
    return revision.to_bytes(_REVISION_BYTES, "little")


def _new_revision() -> bytes:
    return _revision(new_revision())


def _entry(value: bytes, seconds: float | None = None) -> Entry:
    """Parse the value of a key that expires in `seconds`; None: after its idle time."""
    idle_seconds = int.from_bytes(value[_REVISION_BYTES:_HEAD_BYTES], "little")
    expiry = CLOCK.now() + (idle_seconds if seconds is None else seconds)
    return Entry(int.from_bytes(value[:_REVISION_BYTES], "little"), value[_HEAD_BYTES:], idle_seconds, expiry)
