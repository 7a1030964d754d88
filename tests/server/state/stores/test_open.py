"""Which stores cannot be opened, and in what words."""

import os
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from segue_server.errors import StartupError
from segue_server.state.stores import open_store


async def refusal(url: str, max_bytes: int | None = None) -> str:
    with pytest.raises(StartupError) as error:
        await open_store(url, max_bytes)
    text = str(error.value)
    assert "\n" not in text
    assert "--sessions" in text or "--session-gb" in text or "maxmemory" in text
    return text


@pytest.mark.parametrize(
    "url",
    [
        "", "memory", "memory:1", "sqlite", "sqlite:", "file:x", "redis:", "redis://", "redis://host:port",
        "redis://host/db", "redis://host:1/1?x=y", "redis://host?timeout=0", "redis://host?timeout=x", "redis://host?timeout",
        "redis://host:99999", "postgres://h", "/var/sessions",
    ],
)  # fmt: skip
async def test_a_bad_url_is_refused_and_the_good_ones_are_named(url: str) -> None:
    text = await refusal(url)
    assert repr(url) in text
    assert "sqlite:PATH, redis://HOST:PORT[/DATABASE] or memory:" in text


async def test_a_password_is_not_repeated() -> None:
    for url in ("redis://me:secret@host:port", "redsi://:secret@host", "redis://me:secret@127.0.0.1:1"):
        assert "secret" not in await refusal(url)


async def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a database" * 100)
    (tmp_path / "folder").mkdir()
    assert "not a database" in await refusal(f"sqlite:{tmp_path / 'file'}")
    assert "director" in await refusal(f"sqlite:{tmp_path / 'folder'}")
    assert str(tmp_path / "file" / "x") in await refusal(f"sqlite:{tmp_path / 'file' / 'x'}")
    await refusal("sqlite:/proc/sessions")


async def test_another_programs_file_and_another_versions_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sessions (id)")
    connection.close()
    before = path.read_bytes()
    assert "of another program" in await refusal(f"sqlite:{path}")
    assert path.read_bytes() == before

    store = await open_store(f"sqlite:{tmp_path / 'sessions'}")
    await store.close()
    connection = sqlite3.connect(tmp_path / "sessions")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    assert "of version 2, not 1" in await refusal(f"sqlite:{tmp_path / 'sessions'}")


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of root's while the test itself has no rights to it."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody without rights")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "readable").touch(0o644)
        os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(0)


async def test_a_file_that_cannot_be_written_is_refused(nobody: Path) -> None:
    assert "Permission denied" in await refusal(f"sqlite:{nobody / 'readable'}")
    assert "Permission denied" in await refusal(f"sqlite:{nobody / 'new'}")


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:{tmp_path / 'below' / 'sessions'}")
    await store.create("/tiny", {"a": b"1"}, 60)
    files = list((tmp_path / "below").iterdir())
    assert len(files) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    await store.close()


async def test_a_redis_that_is_not_there_is_refused() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert f"redis://127.0.0.1:{port}/0" in await refusal(f"redis://127.0.0.1:{port}")


async def test_a_redis_that_is_not_fit_is_refused(start_redis, emptied_redis) -> None:
    with start_redis("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru") as evicting:
        assert "allkeys-lru" in await refusal(evicting.url)
    with start_redis("--replicaof", "127.0.0.1", str(emptied_redis.port)) as replica:
        await refusal(replica.url)
    with start_redis("--requirepass", "secret") as locked:
        assert "uthentication" in await refusal(locked.url)
        store = await open_store(locked.url.replace("//", "//:secret@"))
        await store.close()
    await refusal(emptied_redis.url, 1000)


async def test_databases_are_apart(emptied_redis) -> None:
    stores = [await open_store(f"{emptied_redis.url}/{database}?timeout=20") for database in (0, 1)]
    await stores[0].create("/tiny", {"a": b"1"}, 60)
    assert await stores[1].names("/tiny", "", 9) == []
    for store in stores:
        await store.close()
