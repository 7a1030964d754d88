import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_server.errors import StartupError
from segue_server.state.key_ring import (
    REREAD_SECONDS,
    SEAL_BYTES,
    KeyRing,
    is_open_to_others,
    make_key_file,
    open_key_ring,
)

ONE, OTHER = "1 " + "ab" * 32, "7 " + "cd" * 32


class Clock:
    """Stands still until it is told not to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def written(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)
    return path


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return KeyRing(written(tmp_path / "keys", ONE))


@given(plain=st.binary(max_size=300), bound=st.binary(max_size=20))
@settings(max_examples=50)
def test_what_is_sealed_opens_again_for_a_ring_with_the_same_key(
    tmp_path_factory: pytest.TempPathFactory, plain: bytes, bound: bytes
) -> None:
    path = written(tmp_path_factory.mktemp("ring") / "keys", ONE)
    sealed = KeyRing(path).seal(plain, bound)
    assert len(sealed) == len(plain) + SEAL_BYTES
    assert KeyRing(path).unseal(sealed, bound) == plain


def test_no_two_seals_are_alike_and_none_shows_the_plain_text(ring: KeyRing) -> None:
    plain = b"a state of few bytes"
    seals = {ring.seal(plain, b"") for _ in range(1000)}
    assert len(seals) == 1000
    assert not any(plain[:8] in sealed for sealed in seals)


def test_bound_to_one_thing_it_does_not_open_as_another(ring: KeyRing) -> None:
    sealed = ring.seal(b"plain", b"tenant a")
    assert ring.unseal(sealed, b"tenant b") is None
    assert ring.unseal(sealed, b"") is None


def test_every_flipped_bit_every_cut_and_every_splice_stays_closed(ring: KeyRing) -> None:
    sealed, other = ring.seal(b"one plain text", b""), ring.seal(b"its very brother", b"")
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        assert ring.unseal(bytes(flipped), b"") is None, bit
    assert all(ring.unseal(sealed[:n], b"") is None for n in range(len(sealed)))
    spliced = {sealed[:n] + other[n:] for n in range(len(sealed) + 1)} - {sealed, other}
    assert all(ring.unseal(each, b"") is None for each in spliced)
    assert ring.unseal(sealed + b"\0", b"") is None


def test_a_new_key_seals_while_the_old_one_opens_until_it_is_retired(tmp_path: Path) -> None:
    path = written(tmp_path / "keys", ONE)
    before = KeyRing(path).seal(b"before", b"")
    both = KeyRing(written(path, ONE, OTHER))
    after = both.seal(b"after", b"")
    assert (both.unseal(before, b""), both.unseal(after, b"")) == (b"before", b"after")
    retired = KeyRing(written(path, OTHER))
    assert (retired.unseal(before, b""), retired.unseal(after, b"")) == (None, b"after")


def test_a_running_server_learns_of_a_new_key_and_asks_the_file_at_most_once_a_second(tmp_path: Path) -> None:
    path, clock = written(tmp_path / "keys", ONE), Clock()
    running = KeyRing(path, clock)
    sealed = KeyRing(written(path, ONE, OTHER)).seal(b"by another replica", b"")
    assert running.unseal(sealed, b"") is None
    clock.now += REREAD_SECONDS
    assert running.unseal(sealed, b"") == b"by another replica"


def test_a_file_that_is_being_written_takes_no_known_key_away(tmp_path: Path) -> None:
    path, clock = written(tmp_path / "keys", ONE), Clock()
    running = KeyRing(path, clock)
    sealed = running.seal(b"plain", b"")
    foreign = KeyRing(written(tmp_path / "foreign", OTHER)).seal(b"plain", b"")
    written(path, ONE, "7 cdcd")
    clock.now += REREAD_SECONDS
    assert running.unseal(foreign, b"") is None
    assert running.unseal(sealed, b"") == b"plain"


def test_a_key_file_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys"
    makers = [threading.Thread(target=make_key_file, args=[path]) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    first = path.read_bytes()
    make_key_file(path)
    assert path.read_bytes() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["keys"]
    KeyRing(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "holds no key"),
        ("\n \n", "holds no key"),
        ("1\n", "line 1: not an id"),
        (f"{ONE}\n0 {'ab' * 32}\n", "line 2: not an id"),
        (f"4294967296 {'ab' * 32}\n", "line 1: not an id"),
        (f"1 {'ab' * 31}\n", "line 1: not an id"),
        (f"1 {'ag' * 32}\n", "line 1: not an id"),
        (f"{ONE}\n1 {'cd' * 32}\n", "the same id"),
        ("\udcff", "not a text file"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line_and_without_its_key(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content.encode(errors="surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(StartupError, match=reason) as refusal:
        KeyRing(path)
    assert "abab" not in str(refusal.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644, 0o610, 0o601, 0o444, 0o777])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "keys", ONE)
    path.chmod(mode)
    with pytest.raises(StartupError, match=f"mode {mode:04o}\\); run: chmod 600 {path}"):
        KeyRing(path)
    path.chmod(0o400)
    KeyRing(path)


@pytest.mark.parametrize("mode", [0o440, 0o640])
def test_root_may_give_the_file_to_a_group_of_a_server_that_is_not_root(mode: int) -> None:
    root, server, somebody = 0, 65534, 1000
    assert not is_open_to_others(mode, root, server)
    assert is_open_to_others(mode, root, root)
    assert is_open_to_others(mode, server, server)
    assert is_open_to_others(mode, somebody, server)
    assert is_open_to_others(mode | 0o020, root, server)
    assert is_open_to_others(mode | 0o004, root, server)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        KeyRing(tmp_path / "absent")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="--keys"):
        make_key_file(tmp_path / "file" / "keys")


def test_the_log_says_whether_the_keys_were_made_or_read_where_and_which(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = open_key_ring(tmp_path / "keys")
    assert made.key_ids == (1,)
    assert open_key_ring(written(tmp_path / "given", ONE, OTHER)).key_ids == (1, 7)
    first, second = caplog.messages
    assert first.startswith(f"keys made: {tmp_path}/keys, key id 1;")
    assert second.startswith(f"keys read: {tmp_path}/given, key ids 1, 7;")
    secrets = (tmp_path / "keys").read_text().split()[1], "ab" * 32, "cd" * 32
    assert not any(secret in caplog.text for secret in secrets)
