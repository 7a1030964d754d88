"""Where sessions are kept: one interface (`store`), and three stores behind it."""

from pathlib import Path
from typing import Final

from segue_server.errors import StartupError
from segue_server.state.stores.store import SessionStore

_FORMS: Final = "sqlite:PATH, redis://HOST:PORT[/DATABASE] or memory:"


async def open_store(url: str, max_bytes: int | None = None) -> SessionStore:
    """Return the store at `url`, ready for use; raises StartupError with what is wrong.

    `max_bytes`: what its sessions may take; None: the store's own default. Redis has a setting of its own for that.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "memory" if url == "memory:":
            from segue_server.state.stores.memory import DEFAULT_MAX_BYTES, MemoryStore

            return MemoryStore(max_bytes or DEFAULT_MAX_BYTES)
        case "sqlite" if rest:
            return await _open_file(Path(rest), max_bytes)
        case "redis" | "rediss":
            return await _connect(url, max_bytes)
    raise _bad(url)


async def _open_file(path: Path, max_bytes: int | None) -> SessionStore:
    from segue_server.state.stores.sqlite import DEFAULT_MAX_BYTES, SqliteStore

    store = SqliteStore(path, max_bytes or DEFAULT_MAX_BYTES)
    await store.open()
    return store


async def _connect(url: str, max_bytes: int | None) -> SessionStore:
    from segue_server.state.stores.redis import RedisAddress, RedisStore

    try:
        address = RedisAddress.parse(url)
    except ValueError:
        raise _bad(url) from None
    if max_bytes is not None:
        raise StartupError("--session-gb is for memory: and sqlite:; for Redis, set its own maxmemory")
    store = RedisStore(address)
    await store.open()
    return store


def _bad(url: str) -> StartupError:
    _, secret, shown = url.rpartition("@")  # before it there may be a password
    return StartupError(f"--sessions is {('...@' if secret else '') + shown!r:.80}; it must be {_FORMS}")
