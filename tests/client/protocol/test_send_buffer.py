"""A text on its way to the server."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from segue_client.protocol.send_buffer import SendBuffer

TEXTS = st.lists(st.text("abc", max_size=12), max_size=12)


@given(texts=TEXTS, size=st.integers(1, 9), joins=st.booleans())
def test_pieces_are_the_text_within_their_size(texts: list[str], size: int, *, joins: bool) -> None:
    buffer, sent = SendBuffer(size, joins=joins, keeps=True), list[str]()
    for text in [*texts, None]:
        if text is None:
            buffer.end()
        else:
            buffer.add(text)
        while buffer.is_ready:
            sent.append(buffer.next_piece())
        assert text is None or not joins or all(len(piece) == size for piece in sent)
    assert "".join(sent) == "".join(texts)
    assert all(1 <= len(piece) <= size for piece in sent)
    if not joins:
        assert len(sent) == sum(-(-len(text) // size) for text in texts)


@given(TEXTS, st.integers(1, 9), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20)), max_size=8))
def test_after_a_break_comes_all_that_is_not_confirmed(
    texts: list[str], size: int, events: list[tuple[int, int]]
) -> None:
    whole = "".join(texts)
    buffer = SendBuffer(size, joins=True, keeps=True)
    for text in texts:
        buffer.add(text)
    buffer.end()
    confirmed = sent = 0
    for sends, confirms in events:
        for _ in range(sends):
            if buffer.is_ready:
                piece = buffer.next_piece()
                assert piece == whole[sent : sent + len(piece)]
                sent += len(piece)
        assert buffer.unconfirmed_count == sent - confirmed
        count = min(confirms, sent - confirmed)
        buffer.confirm(count)
        confirmed += count
        assert buffer.last_confirmed == whole[:confirmed][-1:]
        buffer.resend()
        sent = confirmed
    rest = []
    while buffer.is_ready:
        rest.append(buffer.next_piece())
    assert "".join(rest) == whole[confirmed:]


def test_what_will_not_be_sent_again_is_not_kept() -> None:
    buffer = SendBuffer(3, joins=False, keeps=False)
    buffer.add("abcdef")
    assert (buffer.next_piece(), buffer.next_piece()) == ("abc", "def")
    assert buffer.unconfirmed_count == 0
    buffer.resend()
    assert not buffer.is_ready


@pytest.mark.parametrize("joins", [True, False])
def test_nothing_is_no_piece(*, joins: bool) -> None:
    buffer = SendBuffer(3, joins=joins, keeps=True)
    buffer.add("")
    buffer.end()
    assert not buffer.is_ready
