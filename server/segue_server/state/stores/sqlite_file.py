"""The file of SQLite that sessions are kept in: its table, how it is opened, and what its errors mean."""

import sqlite3
import time
from pathlib import Path
from typing import Final

from segue_server.errors import StartupError
from segue_server.state.stores.opened_files import PAGE_BYTES

_APPLICATION_ID: Final = 0x73656775
"""In the file's header: "segu"."""
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
BUSY_SECONDS: Final = 2.0
"""Wait for another process that is writing."""
_OPENING_SECONDS: Final = 10.0
"""Wait for other processes that are opening the file."""
_OPENING_PAUSE_SECONDS: Final = 0.02


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process has locked the database."""
    return primary_code(error) == sqlite3.SQLITE_BUSY


def primary_code(error: sqlite3.Error) -> int:
    """Return SQLite's code without its extension; 0 for an error of the module `sqlite3` itself."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file at `path`; if several processes do so at once, one creates the table."""
    deadline = time.monotonic() + _OPENING_SECONDS
    while True:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path)
        except sqlite3.Error as error:
            connection.close()
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_OPENING_PAUSE_SECONDS)
        except StartupError:
            connection.close()
            raise
        else:
            return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is ours, and create the table if it is empty; raises StartupError, sqlite3.Error."""
    connection.execute("BEGIN")  # one snapshot for all three: another process may be creating the table
    [application] = connection.execute("PRAGMA application_id").fetchone()
    [version] = connection.execute("PRAGMA user_version").fetchone()
    [tables] = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    connection.execute("COMMIT")
    if tables and (application, version) != (_APPLICATION_ID, _VERSION):
        whose = f"of version {version}, not {_VERSION}" if application == _APPLICATION_ID else "of another program"
        raise StartupError(f"{path} holds tables {whose}; name another file: --sessions sqlite:PATH")
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StartupError(f"the file system of {path} is unfit for sessions (no shared memory); name another file")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
