"""How far back a text can be taken."""

from hypothesis import given
from hypothesis import strategies as st
from segue_client.protocol.ticket_history import REWINDABLE, TicketHistory


@given(st.lists(st.integers(1, 3000), max_size=200), st.data())
def test_the_last_characters_are_within_reach_and_the_ring_is_bounded(steps: list[int], data: st.DataObject) -> None:
    history, count = TicketHistory([(0, None)]), 0
    for step in steps:
        count += step
        history.add(count, b"%d" % count)
    earliest = history.earliest_count
    assert earliest is not None
    assert earliest <= max(1, count - REWINDABLE)
    assert len(history._marks) <= 40
    target = data.draw(st.integers(earliest, max(earliest, count)))
    mark, ticket = history.before(target)
    assert mark <= target
    assert ticket == (b"%d" % mark if mark else None)
    if steps:
        assert history.latest == (count, b"%d" % count)
        assert history.before(count) == (count, b"%d" % count), "the last state needs no reading"


def test_from_a_request_at_least_one_character_is_written() -> None:
    assert TicketHistory([(0, None)]).earliest_count == 1
    assert TicketHistory([(0, b"start")]).earliest_count == 0
    assert TicketHistory([]).earliest_count is None


def test_a_start_is_no_ticket_that_came_on_the_way() -> None:
    history = TicketHistory([(0, b"start")])
    assert history.latest is None
    history.add(10, b"ten")
    assert history.latest == (10, b"ten")
    history.clear()
    assert history.latest is None
    assert history.earliest_count is None
