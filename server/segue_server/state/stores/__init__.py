"""Session stores: one interface (`store`), implemented on SQLite, on Redis, and in memory."""

from pathlib import Path
from typing import Final

from segue_server.errors import StartupError
from segue_server.state.stores.store import SessionStore

_FORMS: Final = "sqlite:PATH, redis://HOST:PORT[/DATABASE] or memory:"


async def open_store(url: str, max_bytes: int | None = None) -> SessionStore:
    """Open the store at `url`; raises StartupError.

    `max_bytes`: for all its sessions; None: the store's default. Redis has its own setting.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "memory" if url == "memory:":
            from segue_server.state.stores.memory import MemoryStore

            return MemoryStore(max_bytes)
        case "sqlite" if rest:
            return await _open_sqlite(Path(rest), max_bytes)
        case "redis" | "rediss":
            return await _open_redis(url, max_bytes)
    raise _bad_url(url)


async def _open_sqlite(path: Path, max_bytes: int | None) -> SessionStore:
    from segue_server.state.stores.sqlite import SqliteStore

    store = SqliteStore(_below_home(path), max_bytes)
    await store.open()
    return store


def _below_home(path: Path) -> Path:
    """Return `path` with a leading ~ replaced."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise StartupError(f"--sessions is 'sqlite:{path}', but that user has no home; name the whole path") from error


async def _open_redis(url: str, max_bytes: int | None) -> SessionStore:
    from segue_server.state.stores.redis import RedisAddress, RedisStore

    try:
        address = RedisAddress.parse(url)
    except ValueError:
        raise _bad_url(url) from None
    if max_bytes is not None:
        raise StartupError("--session-gb is for memory: and sqlite:; for Redis, set its own maxmemory instead", 2)
    store = RedisStore(address)
    await store.open()
    return store


def _bad_url(url: str) -> StartupError:
    _, secret, shown = url.rpartition("@")  # may hold a password before it
    return StartupError(f"--sessions is {('...@' if secret else '') + shown!r:.80}; it must be {_FORMS}", 2)
