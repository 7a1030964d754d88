"""A resource that clients share: never more than there is, and never all for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_server.errors import InvalidRequest, Overloaded
from segue_server.runtime.owner import Owner
from segue_server.runtime.shared import SHARE, Holding, Shared

TOTAL, ASSURED = 1000, 8

owners = st.builds(Owner, st.sampled_from("abcd"), st.sampled_from(["", "x", "y"]))
steps = st.lists(st.tuples(owners, st.integers(1, 400), st.booleans()), max_size=60)


def fill(shared: Shared, owner: Owner, step: int = 1) -> int:
    """Take as much as `owner` gets; return how much that is."""
    taken = 0
    try:
        while True:
            shared.take(owner, step)
            taken += step
    except Overloaded:
        return taken


@given(steps)
def test_what_is_taken_is_counted_for_everyone_and_within_the_shares(taking: list[tuple[Owner, int, bool]]) -> None:
    shared = Shared("things", TOTAL, ASSURED)
    held: dict[Owner, int] = {}
    for owner, amount, gives_back in taking:
        if gives_back and held.get(owner):
            shared.give_back(owner, held.pop(owner))
            continue
        of_connection = sum(n for each, n in held.items() if each.connection == owner.connection)
        try:
            shared.take(owner, amount)
        except Overloaded:
            continue
        held[owner] = held.get(owner, 0) + amount
        assert of_connection + amount <= max(ASSURED, SHARE * shared.free)
        assert shared.taken == sum(held.values()) <= TOTAL
    for owner, amount in held.items():
        shared.give_back(owner, amount)
    assert (shared.taken, shared.free) == (0, TOTAL)


def test_one_connection_gets_half_and_leaves_some_for_the_next() -> None:
    shared = Shared("things", TOTAL, ASSURED)
    assert [fill(shared, Owner(f"{number}", "")) for number in range(4)] == [500, 250, 125, 62]


def test_several_greedy_connections_leave_something() -> None:
    shared = Shared("things", TOTAL, ASSURED)
    for number in range(30):
        fill(shared, Owner(f"greedy:{number}", ""))
    assert shared.free >= TOTAL // 16
    assert fill(shared, Owner("modest:1", "")) >= ASSURED


@pytest.mark.parametrize(
    "modest", [Owner("same:1", "other"), Owner("other:1", "same")], ids=["of another tenant", "of another host"]
)
def test_many_greedy_connections_leave_something_to_others(modest: Owner) -> None:
    shared = Shared("things", TOTAL, ASSURED)
    for number in range(300):
        fill(shared, Owner(f"same:greedy-{number}", "same"))
    assert fill(shared, modest) >= ASSURED


@pytest.mark.parametrize(("greedy", "modest"), [("{}|greedy", "other|modest"), ("greedy:{}|", "modest:1|")])
def test_many_connections_of_a_tenant_or_host_have_no_more_than_one_beside_another(greedy: str, modest: str) -> None:
    shared, other = Shared("things", TOTAL, ASSURED), Owner(*modest.split("|"))
    shared.take(other, 1)
    taken = sum(fill(shared, Owner(*greedy.format(number).split("|"))) for number in range(20))
    assert taken <= SHARE * shared.free + ASSURED
    assert fill(shared, other) >= shared.total // 5


def test_the_only_tenant_is_not_limited_by_its_name() -> None:
    named, unnamed = Shared("things", TOTAL, ASSURED), Shared("things", TOTAL, ASSURED)
    for number in range(3):
        assert fill(named, Owner(f"{number}", "x")) == fill(unnamed, Owner(f"{number}", ""))


def test_a_small_server_is_not_divided() -> None:
    shared = Shared("places", 4, ASSURED)
    assert fill(shared, Owner("only", "")) == 4


def test_more_than_there_is_can_never_be_had() -> None:
    shared = Shared("bytes", TOTAL, ASSURED)
    with pytest.raises(InvalidRequest, match=r"bytes: 1,001 needed; this server has 1,000"):
        shared.take(Owner("a", ""), TOTAL + 1)


def test_a_holding_grows_and_shrinks_and_a_refused_one_stays() -> None:
    shared = Shared("bytes", TOTAL, ASSURED)
    holding = Holding(shared, Owner("a", ""))
    holding.hold(500)
    with pytest.raises(Overloaded):
        holding.hold(900)
    assert shared.taken == holding.amount == 500
    holding.hold(20)
    assert shared.taken == 20
    holding.hold(0)
    assert shared.taken == 0
