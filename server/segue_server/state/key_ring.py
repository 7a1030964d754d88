"""The keys that tickets and sessions are sealed with.

A key file has one key a line: an id (1 to 4,294,967,295) and 64 hexadecimal digits. The last key seals; all of them
open. So a key is retired by taking its line out, and a new one comes into use where it stands last:

    servers that share the file     append the new key; a server that meets an id it does not know reads the file again
    servers with copies of it       put the new key above the last one everywhere, then move it to the end everywhere

Sealed bytes:

    magic       4 bytes   "CLS1"
    key id      4 bytes   unsigned, little-endian
    salt       16 bytes   random
    nonce      12 bytes   random
    ciphertext            AES-256-GCM, as long as the plain text
    tag        16 bytes   of all before it, and of what the seal is bound to

Each seal has a key of its own, BLAKE2b of the salt under the ring's key, so that random nonces never run out (NIST
SP 800-38D allows 2^32 of them for one key).
"""

import hashlib
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
_MAGIC: Final = b"CLS1"
_HEADER: Final = struct.Struct("<4sI16s12s")
_TAG_BYTES: Final = 16
_PURPOSE: Final = b"segue.seal.key1"
_LAST_ID: Final = 2**32 - 1
_OTHERS: Final = stat.S_IRWXO

SEAL_BYTES: Final = _HEADER.size + _TAG_BYTES
"""What a seal adds to the plain text."""

REREAD_SECONDS: Final = 1.0
"""An unknown key makes the file be read again, at most so often: anybody can send unknown ids."""


class KeyRing:
    """Seals bytes, and opens what it, or another ring with the same key, has sealed."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the key file at `path`; raises StartupError with what is wrong with it."""
        self._path = path
        self._clock = clock
        self._keys = _read(path)
        self._read_at = clock()

    def seal(self, plain: bytes, bound_to: bytes) -> bytes:
        """Return `plain` sealed: nobody else can read it, change it, or open it as bound to anything else."""
        key_id = next(reversed(self._keys))
        header = _HEADER.pack(_MAGIC, key_id, secrets.token_bytes(16), nonce := secrets.token_bytes(12))
        return header + _cipher(self._keys[key_id], header).encrypt(nonce, plain, header + bound_to)

    def open(self, sealed: bytes, bound_to: bytes) -> bytes | None:
        """Return what was sealed; None for whatever no key of the ring has sealed so, bound to just that."""
        if len(sealed) < SEAL_BYTES:
            return None
        header = sealed[: _HEADER.size]
        magic, key_id, _, nonce = _HEADER.unpack(header)
        key = self._find(key_id)
        if magic != _MAGIC or key is None:
            return None
        try:
            return _cipher(key, header).decrypt(nonce, sealed[_HEADER.size :], header + bound_to)
        except InvalidTag:
            return None

    def _find(self, key_id: int) -> bytes | None:
        if key_id not in self._keys and self._clock() >= self._read_at + REREAD_SECONDS:
            self._read_at = self._clock()
            try:
                self._keys = _read(self._path)
            except StartupError:
                return None  # half written, perhaps; the keys that are known still do
        return self._keys.get(key_id)


def _cipher(key: bytes, header: bytes) -> AESGCM:
    salt = _HEADER.unpack(header)[2]
    return AESGCM(hashlib.blake2b(salt, key=key, digest_size=KEY_BYTES, person=_PURPOSE).digest())


def make_key_file(path: Path) -> None:
    """Make a key file of one new key, readable by its owner alone; does nothing where there is a file already.

    Of several servers that do so at once, one makes it. Raises StartupError.
    """
    try:
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as file:
            file.write(f"1 {secrets.token_hex(KEY_BYTES)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(file.name, path)
    except OSError as error:
        raise StartupError(
            f"cannot make the key file {path}: {error.strerror}; name another one with --keys"
        ) from error


def _read(path: Path) -> dict[int, bytes]:
    """Return the keys by id, in the order of their lines."""
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise StartupError(f"cannot read the key file {path}: {reason}") from error
    if mode & _OTHERS:
        raise StartupError(f"everybody can read the key file {path}; run: chmod o= {path}")
    keys = dict(_key(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip())
    if not keys:
        raise StartupError(f"the key file {path} holds no key; remove it, and a new one is made at the next start")
    if len(keys) < sum(bool(line.strip()) for line in lines):
        raise StartupError(f"the key file {path} has two keys with the same id; give each key its own")
    return keys


def _key(line: str, place: str) -> tuple[int, bytes]:
    """Read one line; an error does not repeat it."""
    try:
        number, digits = line.split()
        key_id, key = int(number), bytes.fromhex(digits)
    except ValueError:
        key_id, key = 0, b""
    if not (0 < key_id <= _LAST_ID and len(key) == KEY_BYTES):
        raise StartupError(f"{place}: not an id from 1 to {_LAST_ID} and {2 * KEY_BYTES} hexadecimal digits")
    return key_id, key
