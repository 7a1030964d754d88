"""The memory that a process may use, read from files as containers have them."""

from pathlib import Path

import pytest
from segue_server.runtime.memory_limit import memory_limit

MACHINE = memory_limit(Path("/nowhere"))
SMALL, SMALLER = 300_000_000, 200_000_000


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {}, MACHINE),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/\n", {"memory.max": f"{SMALL}\n"}, SMALL),
        ("0::/app/it\n", {"app/memory.max": f"{SMALLER}\n", "app/it/memory.max": f"{SMALL}\n"}, SMALLER),
        ("0::/of/the/host\n", {"memory.max": f"{SMALL}\n"}, SMALL),  # seen from inside, the group is at the top
        ("5:cpu:/\n4:memory:/app\n", {"memory/app/memory.limit_in_bytes": f"{SMALL}\n"}, SMALL),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        ("4:memory:/x\n0::/\n", {"memory/memory.limit_in_bytes": f"{SMALL}", "memory.max": f"{SMALLER}"}, SMALLER),
        ("", {"memory.max": f"{SMALL}\n"}, MACHINE),
    ],
)
def test_the_smallest_limit_of_the_group_and_those_around_it_counts(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert memory_limit(tmp_path) == limit


def test_the_machine_has_a_limit() -> None:
    assert 2**20 < MACHINE < 2**60
