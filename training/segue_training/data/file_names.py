r"""File names as text: Linux names files in bytes, which need not be UTF-8.

In text, a byte that is not UTF-8 is written \xNN and a backslash is doubled, so that every name comes back. Bash reads
the same notation between $' and '.
"""

import os
import re
import shlex
from typing import Final

_ESCAPE: Final = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


def name_to_text(name: str) -> str:
    r"""Return a file name of this process as text that UTF-8 can hold: "bad\\xff.txt"."""
    return os.fsencode(name).replace(b"\\", b"\\\\").decode(errors="backslashreplace")


def text_to_name(text: str) -> str:
    """Return the file name that `name_to_text` wrote as `text`."""
    return os.fsdecode(_ESCAPE.sub(_byte, text.encode()))


def shown(name: str) -> str:
    """Return a file name for people, on one line, without control characters."""
    text = name_to_text(name)
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    """Return a character as bash writes it: by its bytes, unless it is ASCII."""
    if character.isascii():
        return character.encode("unicode_escape").decode()
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def shell_word(name: str) -> str:
    """Return a file name as bash reads it."""
    text = shown(name)
    return f"$'{text.replace(chr(39), chr(92) + chr(39))}'" if "\\" in text else shlex.quote(text)


def _byte(escape: re.Match[bytes]) -> bytes:
    return bytes.fromhex(escape[1].decode()) if escape[1] else b"\\"
