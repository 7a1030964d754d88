"""Public corpora: downloaded once, verified, kept in a folder.

The content is verified by its hash: a captive portal answers every address with an HTML page, and such pages have been
published as corpora.
"""

import hashlib
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Final

from segue_training.atomic import write_atomically
from segue_training.errors import CorpusError

TIMEOUT: Final = 30.0
"""Seconds to wait for the server's next bytes."""

LARGEST: Final = 64 * 2**20
"""Maximum bytes of a download; every corpus here is far smaller."""


@dataclass(frozen=True)
class Download:
    """A file's address, expected hash, and name in the data folder."""

    url: str
    sha256: str
    file: str


def fetch(download: Download, folder: Path) -> bytes:
    """Return the file's content from `folder`, downloading it there first if needed.

    Raises CorpusError for a failed download, wrong content, or a folder that cannot be written.
    """
    path = folder / download.file
    try:
        if path.exists():
            content = path.read_bytes()
            _verify(content, download, f"{path} (delete it to download it again)")
            return content
        content = _download(download, path)
        _verify(content, download, f"the download of {download.url}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        raise CorpusError(f"cannot keep {path}: {error.strerror}; set SEGUE_DATA to another folder") from error
    return content


def _download(download: Download, path: Path) -> bytes:
    try:
        with urllib.request.urlopen(download.url, timeout=TIMEOUT) as reply:  # noqa: S310 - a constant address
            content: bytes = reply.read(LARGEST)
    except (OSError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise CorpusError(
            f"cannot download {download.url}: {reason}; without a network, place the file at {path}"
        ) from error
    return content


def _verify(content: bytes, download: Download, origin: str) -> None:
    actual = hashlib.sha256(content).hexdigest()
    if actual == download.sha256:
        return
    if content.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise CorpusError(f"{origin} is an HTML page, not the corpus: does this network require a login?")
    raise CorpusError(f"{origin} has SHA-256 {actual}, not {download.sha256}: it is damaged or was changed")
