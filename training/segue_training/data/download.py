"""Files of public corpora: fetched once, verified after the download, kept in a folder.

What is verified is the content that arrived, not the address: a captive portal answers every address with its
own HTML page, and such pages have been published as corpora.
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
"""Bytes after which a download is given up: no corpus here is near it."""


@dataclass(frozen=True)
class Download:
    """Where a file comes from, what it must contain, and its name in the data folder."""

    url: str
    sha256: str
    file: str


def fetch(download: Download, folder: Path) -> bytes:
    """Return the file's content from `folder`, downloading it first where it is not there yet.

    Raises CorpusError for a failed download, a wrong content and a folder that cannot be written.
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
        raise CorpusError(f"{origin} is an HTML page, not the corpus: is a login page in the way of this network?")
    raise CorpusError(f"{origin} has SHA-256 {actual}, not {download.sha256}: it is damaged or was changed")
