"""Sessions in an SQLite file: the default. They outlive the server; several servers on one machine can share the file.

Durability: a change that was acknowledged is in the file (`synchronous=FULL`: each transaction is flushed to the disk
before anybody hears of it). It survives the end of the process, however that comes, and a power failure too, as far as
the disk keeps what it says it has written. With `NORMAL` a power failure could take sessions back to older states. The
calls that wait at the same moment share a transaction and its flush.

One row for each session. A session's expiry stands in the file up to 1/64 of its idle time late, so that using it
rarely has to write; it never expires early. Rows lie in pages of 16 KB in the order of their making, beside an index of
their names. A table WITHOUT ROWID, ordered by name, takes a sixth more room and five times as long to fill.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from segue_server.errors import RequestError, StartupError, StoreFull, StoreUnavailable
from segue_server.state.stores.batch_thread import BatchThread
from segue_server.state.stores.store import Entry, new_revision

DEFAULT_MAX_BYTES: Final = 16_000_000_000

_APPLICATION_ID: Final = 0x63686C6D
"""In the file's header: "chlm"."""
_VERSION: Final = 1
"""Of the table, in the file's header."""
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY,
    space TEXT NOT NULL,
    name TEXT NOT NULL,
    revision INTEGER NOT NULL,
    idle_seconds INTEGER NOT NULL,
    expiry REAL NOT NULL,
    record BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS sessions_by_name ON sessions (space, name);
CREATE INDEX IF NOT EXISTS sessions_by_expiry ON sessions (expiry);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_PAGE_BYTES: Final = 16_384
_LATE: Final = 1 + 1 / 64
_BUSY_SECONDS: Final = 2.0
"""How long to wait for another process that is writing."""
_OPENING_SECONDS: Final = 10.0
"""How long to wait for other processes that open the file too."""
_OPENING_PAUSE_SECONDS: Final = 0.02
_REMOVED_EACH_TIME: Final = 16
"""Of the sessions that have expired, with every transaction."""
_REMOVED_AT_ONCE: Final = 500
"""The same, in a quiet moment or when the file is full."""


class SqliteStore:
    """A file of sessions."""

    def __init__(self, path: Path, max_bytes: int = DEFAULT_MAX_BYTES, clock: Callable[[], float] = time.time) -> None:
        """`max_bytes`: what the file's sessions may take; `clock`: seconds of Unix time."""
        self._clock = clock
        self._thread = BatchThread(_File(path.expanduser().absolute(), max_bytes, clock), str(path))

    async def open(self) -> None:
        """Open the file, and make it where there is none; raises StartupError."""
        await self._thread.start()

    async def read(self, space: str, name: str) -> Entry | None:
        """Return a session that is to be used, and begin its idle time anew."""
        entry = await self.look(space, name)
        if entry and entry.expiry < self._clock() + entry.idle_seconds:
            prolonged: Entry | None = await self._thread.do(_Command(_File.prolong, (space, name)))
            return prolonged
        return entry

    async def look(self, space: str, name: str) -> Entry | None:
        """Return a session, and let its idle time run on."""
        found: Entry | None = await self._thread.do(_Command(_File.find, (space, name), writes=False))
        return found

    async def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return a name that is taken, or None."""
        taken: str | None = await self._thread.do(_Command(_File.create, (space, records, idle_seconds)))
        return taken

    async def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Put a new record in the place of one revision; return False where that is not there any more."""
        return bool(await self._thread.do(_Command(_File.replace, (space, name, expected_revision, record))))

    async def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Remove one revision; return False where that is not there any more."""
        return bool(await self._thread.do(_Command(_File.delete, (space, name, expected_revision))))

    async def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names behind `after`, in order."""
        names: list[str] = await self._thread.do(_Command(_File.names, (space, after, limit), writes=False))
        return names

    async def close(self) -> None:
        """Let go of everything."""
        await self._thread.close()


@dataclass(frozen=True, slots=True)
class _Command:
    """What to do with the file."""

    method: Callable[..., Any]
    """Of `_File`. Where it raises a RequestError, it has changed no session that has not expired."""
    arguments: tuple[Any, ...]
    writes: bool = True


class _File:
    """The open file, for its thread."""

    def __init__(self, path: Path, max_bytes: int, clock: Callable[[], float]) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._connection: sqlite3.Connection

    def open(self) -> None:
        """Open the file, and make it where there is none; raises StartupError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = _opened(self._path)
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StartupError(
                f"cannot keep sessions in {self._path}: {reason}; name another file: --sessions sqlite:PATH"
            ) from error

    def run(self, commands: Sequence[_Command]) -> list[Any]:
        """Carry out commands in one transaction; where that fails, each in its own."""
        try:
            return self._together(commands)
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise StoreUnavailable from error
            if len(commands) == 1:
                return [_failure(error)]
        return [self.run([command])[0] for command in commands]

    def tidy(self) -> bool:
        """Remove some of what has expired; return whether there is more."""
        try:
            if self._expired():  # or else nothing would be written, and flushed all the same
                self._together([_Command(_File.remove_expired, (_REMOVED_AT_ONCE,))])
            return self._expired()
        except sqlite3.Error as error:
            raise StoreUnavailable from error

    def close(self) -> None:
        """Let go of everything."""
        self._connection.close()

    def find(self, space: str, name: str) -> Entry | None:
        """Return a session."""
        row = self._one(
            "SELECT revision, record, idle_seconds, expiry FROM sessions WHERE space = ? AND name = ? AND expiry > ?",
            *(space, name, self._clock()),
        )
        return Entry(*row) if row else None

    def prolong(self, space: str, name: str) -> Entry | None:
        """Begin the idle time of a session anew; return the session."""
        self._prolong(space, name)
        return self.find(space, name)

    def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return a name that is taken, or None."""
        for name in records:
            if self.find(space, name):
                return name
        self._make_room(sum(map(len, records.values())))
        expiry = self._clock() + idle_seconds * _LATE
        for name, record in records.items():
            self._write(
                "INSERT OR REPLACE INTO sessions (space, name, revision, idle_seconds, expiry, record)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                *(space, name, new_revision(), idle_seconds, expiry, record),
            )
        return None

    def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Put a new record in the place of one revision; return False where that is not there any more."""
        found = self._one(
            "SELECT id, length(record) FROM sessions WHERE space = ? AND name = ? AND revision = ? AND expiry > ?",
            *(space, name, expected_revision, self._clock()),
        )
        if found is None:
            return False
        row, length = found
        if len(record) > length:
            self._make_room(len(record) - length)
        replaced = self._write(
            "UPDATE sessions SET revision = ?, record = ? WHERE id = ?", *(new_revision(), record, row)
        )
        if replaced:
            self._prolong(space, name)
        return replaced == 1

    def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Remove one revision; return False where that is not there any more."""
        deleted = self._write(
            "DELETE FROM sessions WHERE space = ? AND name = ? AND revision = ? AND expiry > ?",
            *(space, name, expected_revision, self._clock()),
        )
        return deleted == 1

    def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names behind `after`, in order."""
        rows = self._connection.execute(
            "SELECT name FROM sessions WHERE space = ? AND name > ? AND expiry > ? ORDER BY name LIMIT ?",
            (space, after, self._clock(), limit),
        )
        return [name for (name,) in rows]

    def remove_expired(self, limit: int) -> None:
        """Remove up to `limit` sessions that have expired."""
        self._write(
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expiry <= ? LIMIT ?)",
            *(self._clock(), limit),
        )

    def _together(self, commands: Sequence[_Command]) -> list[Any]:
        """Carry out all commands or none; raises sqlite3.Error."""
        if not any(command.writes for command in commands):
            return [self._answer(command) for command in commands]
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            answers = [self._answer(command) for command in commands]
            self.remove_expired(_REMOVED_EACH_TIME)
        return answers

    def _answer(self, command: _Command) -> Any:
        try:
            return command.method(self, *command.arguments)
        except RequestError as error:
            return error

    def _prolong(self, space: str, name: str) -> None:
        now = self._clock()
        self._write(
            "UPDATE sessions SET expiry = ? + idle_seconds * ?"
            " WHERE space = ? AND name = ? AND expiry > ? AND expiry < ? + idle_seconds",
            *(now, _LATE, space, name, now, now),
        )

    def _make_room(self, needed: int) -> None:
        """Raise StoreFull where the file has no room for so many more bytes."""
        if self._used_bytes() + needed > self._max_bytes:
            self.remove_expired(_REMOVED_AT_ONCE)
        if self._used_bytes() + needed > self._max_bytes:
            raise StoreFull("the server has no room for more sessions; close some, or retry when some have expired")

    def _used_bytes(self) -> int:
        [pages] = self._one("PRAGMA page_count") or [0]
        [free] = self._one("PRAGMA freelist_count") or [0]
        return int(pages - free) * _PAGE_BYTES

    def _expired(self) -> bool:
        return self._one("SELECT 1 FROM sessions WHERE expiry <= ? LIMIT 1", self._clock()) is not None

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def _write(self, sql: str, *parameters: Any) -> int:
        """Return how many rows were written."""
        return self._connection.execute(sql, parameters).rowcount


def _failure(error: sqlite3.Error) -> RequestError:
    """Return what a caller hears of `error`."""
    if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
        return StoreFull("the disk that holds the sessions is full; nothing was changed")
    failure = StoreUnavailable()
    failure.__cause__ = error
    return failure


def _opened(path: Path) -> sqlite3.Connection:
    """Open the file at `path`; of several processes that do so at once, one makes the table."""
    deadline = time.monotonic() + _OPENING_SECONDS
    while True:
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path)
        except sqlite3.Error as error:
            connection.close()
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_OPENING_PAUSE_SECONDS)
        except StartupError:
            connection.close()
            raise
        else:
            return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check what the file is, and make the table where it is empty; raises StartupError, sqlite3.Error."""
    connection.execute("BEGIN")  # one moment for all three: another process may be making the table
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.execute("COMMIT")
    if tables and (application, version) != (_APPLICATION_ID, _VERSION):
        whose = f"of version {version}, not {_VERSION}" if application == _APPLICATION_ID else "of another program"
        raise StartupError(f"{path} holds tables {whose}; name another file: --sessions sqlite:PATH")
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StartupError(f"the file system of {path} is not fit for sessions (no shared memory); name another file")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
