"""Which files of a folder or a pattern are read, and why the others are not.

    a folder    every file below it with the suffix, in capitals or not, compressed or not
    a pattern   every file that matches, as in a shell with ** (globstar)

Neither reads hidden files: editors, notebooks, version control and archives of a Mac keep copies and data there. No
file is read twice because a link leads to it.
"""

import glob
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from segue_training.data.compression import SUFFIXES
from segue_training.data.file_names import shell_word, shown
from segue_training.data.sources import Skipped, Skips
from segue_training.errors import CorpusError

WILDCARD: Final = re.compile(r"[*?\[]")

HIDDEN: Final = "hidden"
LINKED: Final = "links to a file that is read"
FOLDER_LINK: Final = "links to a folder"
SPECIAL: Final = "not a regular file"
UNNAMED: Final = "without a suffix"

_MAC_ARCHIVE: Final = "__MACOSX"
"""Where a Mac's archives keep what is no content."""

_SNIFFED: Final = 4096
"""Bytes that tell whether a file is a text."""


@dataclass(frozen=True)
class Selection:
    """The files to read, in the order of their paths, and what is left out."""

    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...] = ()


def files_of_folder(folder: Path, suffix: str) -> Selection:
    """Select the files below `folder` that end in `suffix`. Raises CorpusError if there are none, and OSError."""
    wanted = re.compile(rf".+{re.escape(suffix)}(?:{'|'.join(map(re.escape, SUFFIXES))})?", re.IGNORECASE | re.DOTALL)
    skips, others = Skips(), Skips()
    found, first = [], dict[str, Path]()
    for path in _walk(folder, skips):
        if wanted.fullmatch(path.name):
            found.append(path)
        else:
            kind = _kind(path)
            first.setdefault(kind, path)
            others.add(kind, path)
    files = _read_once(found, folder, skips)
    if not files:
        remedy = _remedy(folder, others.all(), first)
        raise CorpusError(f"the folder {shown(str(folder))} holds no *{suffix} file{remedy}")
    return Selection(files, (*skips.all(), *others.all()))


def files_of_pattern(pattern: str) -> Selection:
    """Select the files that match `pattern`. Raises CorpusError if there are none, and OSError."""
    skips = Skips()
    # not Path.glob, which does not skip hidden files
    found = [path for path in map(Path, glob.iglob(pattern, recursive=True)) if not path.is_dir()]  # noqa: PTH207
    files = _read_once(found, fixed_folder(pattern), skips)
    if not files:
        raise CorpusError(f"no file matches {shown(pattern)!r}")
    return Selection(files, skips.all())


def fixed_folder(pattern: str) -> Path:
    """Return the deepest folder of `pattern` without a wildcard."""
    return next(folder for folder in Path(pattern).parents if not WILDCARD.search(str(folder)))


def _walk(folder: Path, skips: Skips) -> Iterator[Path]:
    """Yield the files below `folder` that are not hidden."""
    for root, folders, files in os.walk(folder, onerror=_refuse):
        for name in sorted(folders):
            path = Path(root, name)
            if _is_hidden(name):
                skips.add(HIDDEN, path)
                folders.remove(name)
            elif path.is_symlink():  # os.walk does not follow it
                skips.add(FOLDER_LINK, path)
        for name in sorted(files):
            if _is_hidden(name):
                skips.add(HIDDEN, Path(root, name))
            else:
                yield Path(root, name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == _MAC_ARCHIVE


def _refuse(error: OSError) -> None:
    raise error


def _read_once(found: Iterable[Path], root: Path, skips: Skips) -> tuple[Path, ...]:
    """Sort the paths of regular files; of several to one file, keep one that leads through no link if there is one."""
    same: defaultdict[tuple[int, int], list[Path]] = defaultdict(list)
    for path in sorted(set(found)):
        if not path.is_file():
            skips.add(SPECIAL, path)
            continue
        status = path.stat()
        same[status.st_dev, status.st_ino].append(path)
    kept = {key: _original(paths, root) for key, paths in same.items()}
    for key, paths in same.items():
        for path in paths:
            if path != kept[key]:
                skips.add(LINKED, path)
    return tuple(sorted(kept.values()))


def _original(paths: list[Path], root: Path) -> Path:
    if len(paths) == 1:
        return paths[0]
    real = root.resolve()
    return next((path for path in paths if path.resolve() == real / path.relative_to(root)), paths[0])


def _kind(path: PurePath) -> str:
    """Return the pattern of names that end as this one, with its compression: "*.md", "*.md.gz"."""
    before = PurePath(path.stem).suffix if path.suffix.lower() in SUFFIXES else ""
    suffix = before + path.suffix
    return f"*{shown(suffix)}" if suffix else UNNAMED


def _remedy(folder: Path, others: Iterable[Skipped], first: Mapping[str, Path]) -> str:
    """Say how to read the most frequent texts among the `others` in `folder`, if there are any."""
    for other in others:
        if other.reason == UNNAMED or WILDCARD.search(other.reason[1:]) or not _is_text(first[other.reason]):
            continue
        if other.reason.lower().startswith("*.jsonl"):
            return f"; for its {other.count:,} {other.reason}, name the field that holds the text with --field"
        pattern = shell_word(f"{glob.escape(str(folder))}/**/{other.reason}")
        return f"; for its {other.count:,} {other.reason}, give the pattern {pattern}"
    return ""


def _is_text(path: Path) -> bool:
    """Return whether `path` begins with UTF-8, or is compressed."""
    if path.suffix.lower() in SUFFIXES or not path.is_file():
        return path.is_file()
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED)
    except OSError:
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and bool(head)
    return b"\0" not in head
