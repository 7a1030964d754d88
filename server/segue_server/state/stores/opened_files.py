"""Whether the files of an open SQLite database are still those at its path.

SQLite holds its files open and does not look at their names again. If somebody removes or replaces one of them, SQLite
goes on with a file that has no name, and everything it writes is gone with the process.
"""

import os
import sqlite3
from pathlib import Path
from typing import Final

from segue_server.errors import StartupError

PAGE_BYTES: Final = 16_384
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24


class OpenedFiles:
    """The database, its log (`-wal`), and the log's index (`-shm`).

    They are never opened here: to close a file drops all of the process's locks on it, SQLite's own among them.
    """

    def __init__(self, path: Path, before: os.stat_result, connection: sqlite3.Connection) -> None:
        """Take over the files of `connection`. `before`: what was at `path` before it was opened."""
        real = path.resolve()
        self._paths = (str(path), f"{real}-wal", f"{real}-shm")
        self._connection = connection
        self._damage = ""
        found = [os.stat(each) for each in self._paths]  # noqa: PTH116 - pathlib takes three times as long
        if not os.path.samestat(found[0], before):
            raise StartupError(f"{path} was replaced while it was opened; start again, or see --sessions")
        self._known = found

    def fault(self) -> str:
        """Return what is wrong with the files; "" if nothing. A file that was cut remains so; others can come back."""
        if self._damage:
            return self._damage
        try:
            found = [os.stat(path) for path in self._paths]  # noqa: PTH116
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        for path, now, known in zip(self._paths, found, self._known, strict=True):
            if now.st_ino != known.st_ino or now.st_dev != known.st_dev:
                return f"{path} is not the file that was opened: it was replaced"
        if found[0].st_size >= self._known[0].st_size and found[1].st_size >= self._known[1].st_size:
            self._known = found
            return ""
        cut = self._cut(found)
        if cut:
            self._damage = cut
        else:
            self._known = found
        return cut

    def is_database_there(self) -> bool:
        """Whether the database itself is still at its path, and no shorter: a third of the time of `fault`."""
        try:
            now = os.stat(self._paths[0])  # noqa: PTH116
        except OSError:
            return False
        known = self._known[0]
        return now.st_ino == known.st_ino and now.st_dev == known.st_dev and now.st_size >= known.st_size

    def rescue(self) -> None:
        """After a file was removed or replaced: write the log to the database that was opened, and empty it.

        The database is then complete wherever it was moved to, and a log that stayed behind cannot be taken for that
        of another database at the same path. Without our index, another process may use the log: then leave it.
        Raises OSError, sqlite3.Error.
        """
        if not self._damage and os.path.samestat(os.stat(self._paths[-1]), self._known[-1]):  # noqa: PTH116
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _cut(self, found: list[os.stat_result]) -> str:
        """Return which file was cut, if any. SQLite itself shortens files too, but never below what they hold."""
        (database, log, _), (known_database, known_log, _) = found, self._known
        pages = database.st_size // PAGE_BYTES
        if database.st_size < known_database.st_size and not (pages and 0 < self._pages() <= pages):
            return f"{self._paths[0]} was cut from {known_database.st_size:,} to {database.st_size:,} bytes"
        if log.st_size < known_log.st_size and self._log_bytes() > log.st_size:
            return f"{self._paths[1]} was cut from {known_log.st_size:,} to {log.st_size:,} bytes"
        return ""

    def _pages(self) -> int:
        """Return the length of the database as its first page tells it to somebody new; 0 if it does not."""
        try:
            fresh = sqlite3.connect(self._paths[0])
            try:
                [pages] = fresh.execute("PRAGMA page_count").fetchone()
            finally:
                fresh.close()
        except sqlite3.Error:
            return 0
        return int(pages)

    def _log_bytes(self) -> float:
        """Return the length of what the log holds, by its index."""
        try:
            [_, frames, _] = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error:
            return float("inf")
        return _WAL_HEADER_BYTES + frames * (_FRAME_HEADER_BYTES + PAGE_BYTES) if frames else 0
