from hypothesis import given
from hypothesis import strategies as st
from segue_server.state.stores.expiry_queue import BUCKET_SECONDS, ExpiryQueue

keys = st.integers(0, 9)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("set"), keys, st.integers(0, 1000)),
        st.tuples(st.just("remove"), keys),
        st.tuples(st.just("take"), st.integers(0, 1200), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(steps=steps)
def test_what_is_due_comes_once_in_time_and_what_was_removed_never(steps: list[tuple]) -> None:
    agenda, times = ExpiryQueue[int](), dict[int, float]()
    for kind, *rest in steps:
        match kind, rest:
            case "set", [key, time] if key not in times:
                agenda.set(key, time)
                times[key] = time
            case "remove", [key] if key in times:
                agenda.remove(key)
                del times[key]
            case "take", [now, limit]:
                taken = list(agenda.take_due(now, limit))
                assert all(times[key] <= now for key in taken)
                overdue = [key for key, time in times.items() if time <= now - BUCKET_SECONDS]
                assert len(taken) == limit or set(overdue) <= set(taken)
                for key in taken:
                    del times[key]
        assert len(agenda) == len(times)


def test_keys_that_come_and_go_leave_nothing_behind() -> None:
    agenda = ExpiryQueue[int]()
    for i in range(100_000):
        agenda.set(i, i % 600)
        agenda.remove(i)
    assert len(agenda._order) == len(agenda._buckets) == 10
