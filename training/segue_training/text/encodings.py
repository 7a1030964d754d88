"""Which encoding a file that is not UTF-8 probably has.

It is looked for only to name the right remedy: a text is never converted on a guess.
"""

from typing import Final

from segue_training.errors import CorpusError

HEAD: Final = 4096
"""Bytes at the beginning of a file that tell its encoding."""

LEAST_NULS: Final = 8
NUL_SHARE: Final = 64
"""A text has fewer NULs than LEAST_NULS, or fewer than one byte in this many."""
LEAST_BINARY: Final = 256
"""Bytes of a file that may be called binary."""

_MARKS: Final = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_ARCHIVES: Final = (
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (257, b"ustar", "a tar archive"),
)


def check_is_text(head: bytes, origin: str, remedy: str) -> None:
    """Raise CorpusError if a file that begins with `head` holds NULs as UTF-16, UTF-32 and binary data do.

    UTF-16 without a byte order mark is often valid UTF-8, in which every other character is NUL. `remedy` is a command
    that converts the file, a format string for its encoding.
    """
    nuls = head.count(0)
    if nuls < max(LEAST_NULS, len(head) // NUL_SHARE):
        return
    if archive := _archive(head):
        raise CorpusError(f"{origin} is {archive}: extract its text first")
    if encoding := _marked(head) or _unmarked(head):
        raise CorpusError(f"{origin} is {encoding.upper()}, not UTF-8; {conversion(remedy, encoding)}")
    if len(head) >= LEAST_BINARY:
        raise CorpusError(f"{origin} is not a text: {nuls} of its first {len(head)} bytes are NUL; leave it out")


def not_utf_8(head: bytes, remedy: str, *, mostly: bool = False) -> str:
    """Return what to do about a file that begins with `head` and is not UTF-8, `mostly` but for a few bytes."""
    if archive := _archive(head):
        return f"it is {archive}: extract its text first"
    known = _marked(head) or _unmarked(head)
    if known is None and mostly:
        drop = remedy.replace("iconv -f {}", "iconv -c -f {}").format("utf-8")
        return f"if it is Latin-1: {remedy.format('latin1')} > NEW; to drop the bad bytes: {drop} > NEW"
    return conversion(remedy, known or "latin1")


def conversion(remedy: str, encoding: str) -> str:
    """Word the remedy for a file in `encoding`."""
    return f"convert it first, for example with: {remedy.format(encoding)} > NEW"


def _archive(head: bytes) -> str | None:
    return next((kind for at, magic, kind in _ARCHIVES if head.startswith(magic, at)), None)


def _marked(head: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)


def _unmarked(head: bytes) -> str | None:
    """Tell the encoding by where its NULs are: the high bytes of most characters."""
    quarters = [head[at : len(head) // 4 * 4 : 4] for at in range(4)]
    nuls = [quarter.count(0) for quarter in quarters]
    full = [count == len(quarter) > 0 for count, quarter in zip(nuls, quarters, strict=True)]
    if all(full) or sum(nuls) < LEAST_NULS:
        return None
    if full[2:] == [True, True]:
        return "utf-32le"
    if full[:2] == [True, True]:
        return "utf-32be"
    if nuls[0] + nuls[2] == 0:
        return "utf-16le"
    return "utf-16be" if nuls[1] + nuls[3] == 0 else None
