"""How much memory this process may use: the limit of its container, or what the machine has."""

import os
from pathlib import Path
from typing import Final

_UNLIMITED: Final = 2**60
"""Control groups of version 1 say "none" by a number near 2^63."""


def memory_limit(root: Path = Path("/")) -> int:
    """Return the bytes that this process may use; `root`: where the files of the system are."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_control_group_limits(root)]
    return min(found)


def _control_group_limits(root: Path) -> list[int]:
    """Return the limits of the process's control group and of those that hold it."""
    limits = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        folder = top / path.lstrip("/")
        # In a container the path may be that of the host: its own group is then mounted at the top.
        for place in (folder, *folder.parents):
            limits.append(_number(_text(place / name)))
            if place == top:
                break
    return [limit for limit in limits if limit is not None and limit < _UNLIMITED]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
