"""The keys that tickets and sessions are sealed with.

A key file has one key on each line: an id (1 to 4,294,967,295) and 64 hexadecimal digits. The last key seals; all
of them unseal. To retire a key, remove its line. To introduce one:

    servers that share the file     append the new key; a server that meets an unknown id rereads the file
    servers with copies of it       insert the new key above the last one everywhere, then move it to the end everywhere

Only the server may read the file: its mode is 0600 or 0400. One exception, for the secrets of containers: a file of
root, mode 0440 or 0640, that a server of another user reads through its group.

Sealed bytes:

    magic       4 bytes   "SGS1"
    key id      4 bytes   unsigned, little-endian
    salt       16 bytes   random
    nonce      12 bytes   random
    ciphertext            AES-256-GCM, as long as the plain text
    tag        16 bytes   over everything before it and what the seal is bound to

Each seal has its own key, BLAKE2b of the salt under the ring's key, so that random nonces never run out (NIST
SP 800-38D allows 2^32 of them for one key).
"""

import hashlib
import logging
import os
import secrets
import stat
import struct
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from segue_server.errors import StartupError

KEY_BYTES: Final = 32
_MAGIC: Final = b"SGS1"
_HEADER: Final = struct.Struct("<4sI16s12s")
_TAG_BYTES: Final = 16
_PURPOSE: Final = b"segue.seal.key1"
_LAST_ID: Final = 2**32 - 1
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

SEAL_BYTES: Final = _HEADER.size + _TAG_BYTES
"""How much longer sealed bytes are than the plain text."""

REREAD_SECONDS: Final = 1.0
"""Least time between two rereads of the file for an unknown key id: anybody can send unknown ids."""


_log = logging.getLogger(__name__)


class KeyRing:
    """Seals bytes, and unseals what a ring with the same key has sealed."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the key file at `path`; raises StartupError."""
        self._path = path
        self._clock = clock
        self._keys = _read_keys(path)
        self._read_at = clock()

    @property
    def key_ids(self) -> tuple[int, ...]:
        """The ids of all keys; the last one's seals."""
        return tuple(self._keys)

    def seal(self, plain: bytes, bound_to: bytes) -> bytes:
        """Return `plain` encrypted and authenticated. It unseals only under the same `bound_to`."""
        key_id = next(reversed(self._keys))
        header = _HEADER.pack(_MAGIC, key_id, secrets.token_bytes(16), nonce := secrets.token_bytes(12))
        return header + _cipher(self._keys[key_id], header).encrypt(nonce, plain, header + bound_to)

    def unseal(self, sealed: bytes, bound_to: bytes) -> bytes | None:
        """Return the plain text; None if no key of the ring has sealed it, bound to `bound_to`."""
        if not is_sealed(sealed):
            return None
        header = sealed[: _HEADER.size]
        _, key_id, _, nonce = _HEADER.unpack(header)
        key = self._key_of(key_id)
        if key is None:
            return None
        try:
            return _cipher(key, header).decrypt(nonce, sealed[_HEADER.size :], header + bound_to)
        except InvalidTag:
            return None

    def _key_of(self, key_id: int) -> bytes | None:
        if key_id not in self._keys and self._clock() >= self._read_at + REREAD_SECONDS:
            self._read_at = self._clock()
            try:
                self._keys = _read_keys(self._path)
            except StartupError:
                return None  # perhaps half written: keep the known keys
        return self._keys.get(key_id)


def is_sealed(data: bytes) -> bool:
    """Whether `data` looks like sealed bytes, by whatever key."""
    return len(data) >= SEAL_BYTES and data.startswith(_MAGIC)


def _cipher(key: bytes, header: bytes) -> AESGCM:
    salt = _HEADER.unpack(header)[2]
    return AESGCM(hashlib.blake2b(salt, key=key, digest_size=KEY_BYTES, person=_PURPOSE).digest())


def open_key_ring(path: Path) -> KeyRing:
    """Read the key file at `path`, or make it if it is missing, and log which of both. Raises StartupError."""
    made = make_key_file(path)
    ring = KeyRing(path)
    ids = ", ".join(map(str, ring.key_ids))
    if made:
        _log.info("keys made: %s, key id %s; replicas need this file, and without it no ticket can be read", path, ids)
    else:
        _log.info("keys read: %s, key ids %s; the last one seals", path, ids)
    return ring


def make_key_file(path: Path) -> bool:
    """Make a key file with one new key, readable only by its owner, unless the file exists; return whether it was made.

    If several servers do so at once, one succeeds and the others use its file. Raises StartupError.
    """
    try:
        if path.exists():
            return False
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
            file.write(f"1 {secrets.token_hex(KEY_BYTES)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(file.name, path)
                return True
    except OSError as error:
        raise StartupError(
            f"cannot make the key file {path}, which does not exist: {error.strerror}; "
            "name another one with --keys or SEGUE_KEYS"
        ) from error
    return False


def _read_keys(path: Path) -> dict[int, bytes]:
    """Return the keys by id, in the order of their lines."""
    try:
        with path.open() as file:
            status = os.fstat(file.fileno())
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise StartupError(
            f"user {os.getuid()} cannot read the key file {path}: {reason}; "
            "let this user read it, or name another with --keys or SEGUE_KEYS"
        ) from error
    if is_open_to_others(status.st_mode, status.st_uid, os.geteuid()):
        raise StartupError(
            f"other users may read the key file {path} (mode {stat.S_IMODE(status.st_mode):04o}); run: chmod 600 {path}"
            ", or mount it with mode 0400 for the server's user, or 0440 for root and a group of the server"
        )
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    keys = dict(_parse_key(line, f"the key file {path}, line {number}") for number, line in numbered)
    if not keys:
        raise StartupError(f"the key file {path} holds no key; remove it, and the next start makes a new one")
    if len(keys) < len(numbered):
        raise StartupError(f"the key file {path} has two keys with the same id; give each key its own")
    return keys


def is_open_to_others(mode: int, owner: int, user: int) -> bool:
    """Return whether a file of `owner` is open to more than `user`, except through a group that root chose."""
    allowed = stat.S_IRGRP if owner == 0 != user else 0
    return bool(mode & _OTHERS & ~allowed)


def _parse_key(line: str, place: str) -> tuple[int, bytes]:
    """Parse one line; the error message does not quote it."""
    try:
        number, digits = line.split()
        key_id, key = int(number), bytes.fromhex(digits)
    except ValueError:
        key_id, key = 0, b""
    if not (0 < key_id <= _LAST_ID and len(key) == KEY_BYTES):
        raise StartupError(
            f"{place}: not an id from 1 to {_LAST_ID} and {2 * KEY_BYTES} hexadecimal digits; correct it, or name "
            "another file with --keys or SEGUE_KEYS"
        )
    return key_id, key
