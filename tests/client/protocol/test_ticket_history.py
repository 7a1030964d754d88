"""How far back a text can be taken."""

from hypothesis import given
from hypothesis import strategies as st
from segue_client.protocol.ticket_history import REWINDABLE, TicketHistory


@given(st.lists(st.integers(1, 3000), max_size=200), st.data())
def test_the_last_characters_are_within_reach_and_the_ring_is_bounded(steps: list[int], data: st.DataObject) -> None:
    trail, count = TicketHistory([(0, None)]), 0
    for step in steps:
        count += step
        trail.note(count, b"%d" % count)
    earliest = trail.earliest_count
    assert earliest is not None
    assert earliest <= max(1, count - REWINDABLE)
    assert len(trail._marks) <= 40
    target = data.draw(st.integers(earliest, max(earliest, count)))
    mark, ticket = trail.before(target)
    assert mark <= target
    assert ticket == (b"%d" % mark if mark else None)
    if steps:
        assert trail.latest == (count, b"%d" % count)
        assert trail.before(count) == (count, b"%d" % count), "the last state needs no reading"


def test_from_a_request_at_least_one_character_is_written() -> None:
    assert TicketHistory([(0, None)]).earliest_count == 1
    assert TicketHistory([(0, b"start")]).earliest_count == 0
    assert TicketHistory([]).earliest_count is None


def test_a_start_is_no_ticket_that_came_on_the_way() -> None:
    trail = TicketHistory([(0, b"start")])
    assert trail.latest is None
    trail.note(10, b"ten")
    assert trail.latest == (10, b"ten")
    trail.clear()
    assert trail.latest is None
    assert trail.earliest_count is None
