"""Sessions in a file of SQLite, the default.

They outlive the server, and several servers on one machine can share it. An acknowledged change is
durable (`synchronous=FULL`: each transaction is flushed to disk before it is acknowledged): it survives any end of the
process, and a power failure if the disk keeps its promises. With `NORMAL`, a power failure could revert sessions to
older states. Calls that wait at the same time share a transaction and its flush.

One row for each session. Its stored expiry is up to 1/64 of the idle time late, so that use rarely has to write it; a
session never expires early. Rows lie in pages of 16 KB in creation order, beside an index of names. A table WITHOUT
ROWID, ordered by name, takes a sixth more room and five times as long to fill.
"""

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from segue_server.errors import RequestError, StartupError, StoreFull, StoreLost, StoreUnavailable
from segue_server.state.clock import CLOCK, Clock
from segue_server.state.stores.batch_thread import BatchThread
from segue_server.state.stores.opened_files import PAGE_BYTES, OpenedFiles
from segue_server.state.stores.sqlite_file import BUSY_SECONDS, is_busy, open_file, primary_code
from segue_server.state.stores.store import Entry, new_revision

_MAX_BYTES: Final = 16_000_000_000
"""Default limit."""

_LATE: Final = 1 + 1 / 64
_HURRIED_SECONDS: Final = 0.05
"""The same, after such a wait was in vain: those who waited for it to end must not wait as long again."""
_REMOVED_EACH_TIME: Final = 16
"""Expired sessions, with every transaction."""
_REMOVED_AT_ONCE: Final = 500
"""The same, when idle or full."""


class SqliteStore:
    """Sessions in a database."""

    def __init__(self, path: Path, max_bytes: int | None = None, clock: Clock = CLOCK) -> None:
        """`max_bytes`: for all sessions; None: the default."""
        self._clock = clock
        database = _Database(path.expanduser().absolute(), max_bytes or _MAX_BYTES, clock)
        self._runner = BatchThread(database, str(path))

    async def open(self) -> None:
        """Open the database, and create it if missing; raises StartupError."""
        await self._runner.start()

    async def fetch(self, space: str, name: str) -> Entry | None:
        """Return a session and restart its idle time."""
        entry = await self.peek(space, name)
        if entry and entry.expiry < self._clock.now() + entry.idle_seconds:
            prolonged: Entry | None = await self._runner.do(_Command(_Database.prolong, (space, name)))
            return prolonged
        return entry

    async def peek(self, space: str, name: str) -> Entry | None:
        """Return a session without restarting its idle time."""
        found: Entry | None = await self._runner.do(_Command(_Database.find, (space, name), writes=False))
        return found

    async def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return None, or a name that is taken."""
        taken: str | None = await self._runner.do(_Command(_Database.create, (space, records, idle_seconds)))
        return taken

    async def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Replace the record of `expected_revision`; return False if that revision is gone."""
        return bool(await self._runner.do(_Command(_Database.replace, (space, name, expected_revision, record))))

    async def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Delete the session of `expected_revision`; return False if that revision is gone."""
        return bool(await self._runner.do(_Command(_Database.delete, (space, name, expected_revision))))

    async def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names after `after`, in order."""
        names: list[str] = await self._runner.do(_Command(_Database.names, (space, after, limit), writes=False))
        return names

    async def close(self) -> None:
        """Release everything."""
        await self._runner.close()


@dataclass(frozen=True, slots=True)
class _Command:
    """An operation on the database."""

    method: Callable[..., Any]
    """Of `_Database`. If it raises a RequestError, it has changed no unexpired session."""
    arguments: tuple[Any, ...]
    writes: bool = True


class _Database:
    """The open database. Used by one thread."""

    def __init__(self, path: Path, max_bytes: int, clock: Clock) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._connection: sqlite3.Connection
        self._files: OpenedFiles
        self._is_lost = False
        self._patience = BUSY_SECONDS

    def open(self) -> None:
        """Open the database, and create it if missing; raises StartupError."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            before = self._path.stat()
            self._connection = open_file(self._path)
            self._files = OpenedFiles(self._path, before, self._connection)
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StartupError(
                f"cannot keep sessions in {self._path}: {reason}; name another file: --sessions sqlite:PATH"
            ) from error

    def run(self, commands: Sequence[_Command]) -> list[Any]:
        """Run commands in one transaction, or, if that fails, each in its own; raises StoreLost."""
        writes = any(command.writes for command in commands)
        if writes or self._is_lost or not self._files.is_database_there():
            self._check_files()
        answers = self._answers(commands)
        if writes:
            self._check_files()  # before anybody relies on what was written
        return answers

    def tidy(self) -> bool:
        """Remove some expired sessions; return whether there are more."""
        try:
            self._check_files()
            if self._has_expired():  # an empty transaction would still be flushed
                self._run_together([_Command(_Database.remove_expired, (_REMOVED_AT_ONCE,))])
            return self._has_expired()
        except sqlite3.Error as error:
            raise StoreUnavailable from error.with_traceback(None)

    def close(self) -> None:
        """Release everything."""
        self._connection.close()

    def find(self, space: str, name: str) -> Entry | None:
        """Return a session."""
        row = self._one(
            "SELECT revision, record, idle_seconds, expiry FROM sessions WHERE space = ? AND name = ? AND expiry > ?",
            *(space, name, self._clock.now()),
        )
        if row is None:
            return None
        is_ours = [type(value) for value in row] == [int, bytes, int, float]
        return Entry(*row) if is_ours else Entry(0, b"", 0, 0.0)

    def prolong(self, space: str, name: str) -> Entry | None:
        """Restart the idle time of a session; return the session."""
        self._prolong(space, name)
        return self.find(space, name)

    def create(self, space: str, records: Mapping[str, bytes], idle_seconds: int) -> str | None:
        """Store new sessions, all or none; return None, or a name that is taken."""
        for name in records:
            if self._exists(space, name):
                return name
        self._make_room(sum(map(len, records.values())))
        expiry = self._clock.now() + idle_seconds * _LATE
        for name, record in records.items():
            self._write(
                "INSERT OR REPLACE INTO sessions (space, name, revision, idle_seconds, expiry, record)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                *(space, name, new_revision(), idle_seconds, expiry, record),
            )
        return None

    def replace(self, space: str, name: str, expected_revision: int, record: bytes) -> bool:
        """Replace the record of `expected_revision`; return False if that revision is gone."""
        found = self._one(
            "SELECT id, length(record), expiry - idle_seconds FROM sessions"
            " WHERE space = ? AND name = ? AND revision = ? AND expiry > ?",
            *(space, name, expected_revision, self._clock.now()),
        )
        if found is None:
            return False
        row, length, prolong_after = found
        if len(record) > length:
            self._make_room(len(record) - length)
        replaced = self._write(
            "UPDATE sessions SET revision = ?, record = ? WHERE id = ?", *(new_revision(), record, row)
        )
        if replaced and self._clock.now() > prolong_after:
            self._prolong(space, name)
        return replaced == 1

    def delete(self, space: str, name: str, expected_revision: int) -> bool:
        """Delete the session of `expected_revision`; return False if that revision is gone."""
        deleted = self._write(
            "DELETE FROM sessions WHERE space = ? AND name = ? AND revision = ? AND expiry > ?",
            *(space, name, expected_revision, self._clock.now()),
        )
        return deleted == 1

    def names(self, space: str, after: str, limit: int) -> list[str]:
        """Return the first `limit` names after `after`, in order."""
        rows = self._connection.execute(
            "SELECT name FROM sessions WHERE space = ? AND name > ? AND expiry > ? ORDER BY name LIMIT ?",
            (space, after, self._clock.now(), limit),
        )
        return [name for (name,) in rows]

    def remove_expired(self, limit: int) -> None:
        """Remove up to `limit` sessions that have expired for good."""
        self._write(
            "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expiry <= ? LIMIT ?)",
            *(self._clock.surely_past(), limit),
        )

    def _check_files(self) -> None:
        """Raise StoreLost if somebody removed, replaced or cut a file of the database."""
        fault = self._files.fault()
        if fault and not self._is_lost:
            self._wait_at_most(_HURRIED_SECONDS)
            with suppress(sqlite3.Error, OSError):
                self._files.rescue()
        self._is_lost = bool(fault)
        if fault:
            raise StoreLost from OSError(f"{fault}; put it back, or restart the server, which then uses what is there")

    def _answers(self, commands: Sequence[_Command]) -> list[Any]:
        try:
            return self._run_together(commands)
        except sqlite3.Error as error:
            if len(commands) == 1:
                return [_failure(error)]
            return self._run_each(commands, error if is_busy(error) else None)

    def _run_each(self, commands: Sequence[_Command], locked: sqlite3.Error | None) -> list[Any]:
        """Run commands one by one; after the error `locked`, only those that need no lock."""
        answers = list[Any]()
        for command in commands:
            if locked and command.writes:
                answers.append(_failure(locked))
                continue
            try:
                answers += self._run_together([command])
            except sqlite3.Error as error:
                answers.append(_failure(error))
                locked = error if is_busy(error) else locked
        return answers

    def _run_together(self, commands: Sequence[_Command]) -> list[Any]:
        """Run all commands or none; raises sqlite3.Error."""
        if not any(command.writes for command in commands):
            return [self._answer(command) for command in commands]
        with self._connection:
            self._lock()
            answers = [self._answer(command) for command in commands]
            self.remove_expired(_REMOVED_EACH_TIME)
        return answers

    def _lock(self) -> None:
        """Begin to write; raises sqlite3.Error if another process does so for too long."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if is_busy(error):
                self._wait_at_most(_HURRIED_SECONDS)
            raise
        self._wait_at_most(BUSY_SECONDS)

    def _wait_at_most(self, seconds: float) -> None:
        if seconds != self._patience:
            self._connection.execute(f"PRAGMA busy_timeout = {seconds * 1000:.0f}")
            self._patience = seconds

    def _answer(self, command: _Command) -> Any:
        try:
            return command.method(self, *command.arguments)
        except RequestError as error:
            return error

    def _prolong(self, space: str, name: str) -> None:
        now = self._clock.now()
        self._write(
            "UPDATE sessions SET expiry = ? + idle_seconds * ?"
            " WHERE space = ? AND name = ? AND expiry > ? AND expiry < ? + idle_seconds",
            *(now, _LATE, space, name, now, now),
        )

    def _make_room(self, needed: int) -> None:
        """Make room for `needed` more bytes; raises StoreFull."""
        if self._used_bytes() + needed > self._max_bytes:
            self.remove_expired(_REMOVED_AT_ONCE)
        if self._used_bytes() + needed > self._max_bytes:
            raise StoreFull("the server has no room for more sessions; close some, or retry after some have expired")

    def _used_bytes(self) -> int:
        [pages] = self._one("PRAGMA page_count") or [0]
        [free] = self._one("PRAGMA freelist_count") or [0]
        return int(pages - free) * PAGE_BYTES

    def _exists(self, space: str, name: str) -> bool:
        sql = "SELECT 1 FROM sessions WHERE space = ? AND name = ? AND expiry > ?"
        return self._one(sql, space, name, self._clock.now()) is not None

    def _has_expired(self) -> bool:
        return self._one("SELECT 1 FROM sessions WHERE expiry <= ? LIMIT 1", self._clock.surely_past()) is not None

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def _write(self, sql: str, *parameters: Any) -> int:
        """Return the number of rows written."""
        return self._connection.execute(sql, parameters).rowcount


def _failure(error: sqlite3.Error) -> RequestError:
    """Return the error for the caller."""
    if primary_code(error) == sqlite3.SQLITE_FULL:
        return StoreFull("the disk that holds the sessions is full; nothing was changed: close some, or use tickets")
    failure = StoreUnavailable()
    failure.__cause__ = error.with_traceback(None)  # its frames hold what the call sent
    return failure
