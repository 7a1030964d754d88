"""A clock that is wrong for a moment expires nothing, and one that is wrong for long deletes nothing soon."""

import random
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.errors import StoreFull
from segue_server.state.clock import LASTING_SECONDS, SteadyClock
from segue_server.state.stores.memory import MemoryStore
from segue_server.state.stores.sqlite import SqliteStore
from segue_server.state.stores.store import SessionStore

DAY = 86_400.0
IDLE = 7 * 86_400
BEGAN = 1_800_000_000.0


class Machine:
    """A machine's two clocks, of which one can be set."""

    def __init__(self, error: float = 0) -> None:
        self.elapsed = 1000.0
        self.error = error
        """How much its Unix time is ahead."""

    @property
    def true_time(self) -> float:
        return BEGAN + self.elapsed

    def clock(self) -> SteadyClock:
        return SteadyClock(lambda: self.true_time + self.error, lambda: self.elapsed)


steps = st.tuples(st.sampled_from([-400 * DAY, -DAY, -60.0, 60.0, DAY, 100 * DAY]), st.floats(0, LASTING_SECONDS - 1))


@given(st.lists(st.tuples(steps, st.floats(0, 10 * DAY)), max_size=8))
def test_steps_that_do_not_last_change_nothing(times: list[tuple[tuple[float, float], float]]) -> None:
    machine = Machine()
    clock = machine.clock()
    for (error, lasting), quiet in times:
        machine.error = error
        for part in (0, lasting / 2, lasting / 2):
            machine.elapsed += part
            assert clock.now() == pytest.approx(machine.true_time, abs=0.01)
            assert clock.surely_past() == -inf
        machine.error = 0
        assert clock.now() == pytest.approx(machine.true_time, abs=0.01)
        machine.elapsed += quiet


@pytest.mark.parametrize("error", [-400 * DAY, -60.0, 60.0, 100 * DAY])
def test_a_step_that_lasts_is_believed_and_nothing_is_deleted_soon_after(
    error: float, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.elapsed += 2 * LASTING_SECONDS
    assert clock.surely_past() == pytest.approx(machine.true_time - LASTING_SECONDS)
    machine.error = error
    for _ in range(59):
        clock.now()
        machine.elapsed += LASTING_SECONDS / 60
        assert clock.now() == pytest.approx(machine.true_time)
    machine.elapsed += LASTING_SECONDS / 60
    assert clock.now() == pytest.approx(machine.true_time + error)
    assert clock.surely_past() == -inf
    machine.elapsed += LASTING_SECONDS
    assert clock.surely_past() == pytest.approx(machine.true_time + error - LASTING_SECONDS)
    assert [f"{error:+.0f} s" in line.getMessage() for line in caplog.records] == [True, True]


def test_a_clock_that_is_wrong_by_turns_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    clock = machine.clock()
    for turn in range(1200):
        machine.error = DAY * (turn % 7)
        machine.elapsed += 0.1
        assert clock.now() == pytest.approx(machine.true_time)
    assert 1 <= len(caplog.records) <= 3


def test_what_the_machine_corrects_little_by_little_is_followed_at_once() -> None:
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.error += 5
        machine.elapsed += 1
        assert clock.now() == pytest.approx(machine.true_time + machine.error)


def test_a_new_process_deletes_nothing_at_first() -> None:
    machine = Machine(error=100 * DAY)
    clock = machine.clock()
    assert clock.now() == machine.true_time + machine.error
    assert clock.surely_past() == -inf


async def opened(kind: str, machine: Machine, path: Path, max_bytes: int | None = None) -> SessionStore:
    if kind == "memory":
        return MemoryStore(max_bytes, clock=machine.clock())
    store = SqliteStore(path, max_bytes, clock=machine.clock())
    await store.open()
    return store


async def use(store: SessionStore, names: list[str], turn: int) -> None:
    """Do what makes a store look for expired sessions."""
    await store.create("/tiny", {f"by the way {turn}": b"1"}, IDLE)
    await store.names("/tiny", "", 9)
    for name in names:
        entry = await store.fetch("/tiny", name)
        assert entry
        assert await store.replace("/tiny", name, entry.revision, b"%d" % turn)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_sessions_survive_a_clock_that_is_wrong_for_longer_than_it_is_doubted(kind: str, tmp_path: Path) -> None:
    """They are refused, and there again when the clock is."""
    machine = Machine()
    store = await opened(kind, machine, tmp_path / "sessions")
    names = [f"{i}" for i in range(30)]
    await store.create("/tiny", dict.fromkeys(names, b"0"), IDLE)
    machine.elapsed += DAY
    machine.error = 100 * DAY
    await use(store, names, 1)
    machine.elapsed += LASTING_SECONDS
    for turn in range(2, 12):
        await use(store, [], turn)
        assert await store.fetch("/tiny", names[0]) is None
        machine.elapsed += LASTING_SECONDS / 11
    machine.error = 0
    await use(store, [], 12)
    machine.elapsed += LASTING_SECONDS
    for name in names:
        assert await store.fetch("/tiny", name)
    await store.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_sessions_survive_a_clock_that_jumps_for_a_moment(kind: str, tmp_path: Path) -> None:
    machine, generator = Machine(), random.Random(4)
    store = await opened(kind, machine, tmp_path / "sessions")
    names = [f"{i}" for i in range(60)]
    await store.create("/tiny", dict.fromkeys(names, b"0"), IDLE)
    for turn in range(20):
        machine.elapsed += generator.choice([60, 7200, DAY])
        machine.error = generator.choice([100 * DAY, -400 * DAY, 8 * DAY])
        await use(store, names[:30], turn)
        machine.error = 0
        await use(store, names[:1], 1000 + turn)
        for name in generator.sample(names, 20):
            assert await store.fetch("/tiny", name)
    expiry = (await store.fetch("/tiny", "0")).expiry
    assert 0 <= expiry - machine.true_time - IDLE <= IDLE / 64 + 1
    machine.elapsed += IDLE + DAY  # and they do expire
    assert await store.names("/tiny", "", 999) == []
    await store.close()


async def test_sessions_survive_a_process_that_began_with_a_wrong_clock(tmp_path: Path) -> None:
    """Even one that has no room: it takes no new sessions then."""
    right = Machine()
    store = await opened("sqlite", right, tmp_path / "sessions", 1_000_000)
    names = [f"{i}" for i in range(50)]
    await store.create("/tiny", dict.fromkeys(names, bytes(2300)), IDLE)
    await store.close()

    wrong = Machine(error=100 * DAY)
    store = await opened("sqlite", wrong, tmp_path / "sessions", 1_000_000)
    assert await store.fetch("/tiny", "0") is None
    with pytest.raises(StoreFull):
        for i in range(999):
            await store.create("/tiny", {f"other {i}": bytes(2300)}, 60)
    await store.close()

    right.elapsed += 3000
    store = await opened("sqlite", right, tmp_path / "sessions", 1_000_000)
    for name in names:
        assert await store.fetch("/tiny", name)
    await store.close()
