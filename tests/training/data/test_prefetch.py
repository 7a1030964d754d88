import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from segue_training.data.prefetch import prefetched

AHEAD = 3


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


@given(st.lists(st.none() | st.integers()), st.integers(0, 5))
def test_the_items_and_their_order_are_the_same(items: list[int | None], ahead: int) -> None:
    assert list(prefetched(iter(items), ahead)) == items


def test_another_thread_makes_the_items_and_only_one() -> None:
    makers = list(prefetched((threading.current_thread() for _ in range(20)), AHEAD))
    assert len(set(makers)) == 1
    assert makers[0] is not threading.current_thread()


def test_no_thread_is_started_where_none_is_wanted() -> None:
    assert set(prefetched((threading.current_thread() for _ in range(3)), 0)) == {threading.current_thread()}


def test_an_endless_iterator_is_read_only_a_few_items_ahead() -> None:
    made: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            made.append(len(made))
            yield made[-1]

    items = prefetched(endless(), AHEAD)
    for taken in range(1, 30):
        assert next(items) == taken - 1
        assert taken <= len(made) <= taken + AHEAD
    items.close()
    assert len(made) <= 29 + AHEAD


def test_items_are_made_while_the_consumer_works() -> None:
    third = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        yield 1
        third.set()
        yield 2

    made = prefetched(items(), AHEAD)
    assert next(made) == 0
    assert third.wait(10)
    assert list(made) == [1, 2]


@pytest.mark.parametrize("ahead", [0, 1, AHEAD])
def test_an_error_is_raised_in_its_place_and_ends_the_items(ahead: int) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise ZeroDivisionError

    made = prefetched(items(), ahead)
    assert [next(made), next(made)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(made)
    assert list(made) == []


def test_the_thread_ends_with_a_consumer_that_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        for item in prefetched(iter(range(100)), AHEAD):
            1 / (item - 5)
