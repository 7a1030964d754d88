"""A text on its way to the server."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from segue_client.protocol.send_buffer import SendBuffer

TEXTS = st.lists(st.text("abc", max_size=12), max_size=12)


@given(texts=TEXTS, size=st.integers(1, 9), joins=st.booleans())
def test_pieces_are_the_text_within_their_size(texts: list[str], size: int, *, joins: bool) -> None:
    pieces, sent = SendBuffer(size, joins=joins, keeps=True), list[str]()
    for text in [*texts, None]:
        if text is None:
            pieces.end()
        else:
            pieces.add(text)
        while pieces.is_ready:
            sent.append(pieces.send())
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
    pieces = SendBuffer(size, joins=True, keeps=True)
    for text in texts:
        pieces.add(text)
    pieces.end()
    confirmed = sent = 0
    for sends, confirms in events:
        for _ in range(sends):
            if pieces.is_ready:
                piece = pieces.send()
                assert piece == whole[sent : sent + len(piece)]
                sent += len(piece)
        assert pieces.unconfirmed_count == sent - confirmed
        count = min(confirms, sent - confirmed)
        pieces.confirm(count)
        confirmed += count
        assert pieces.last_confirmed == whole[:confirmed][-1:]
        pieces.again()
        sent = confirmed
    rest = []
    while pieces.is_ready:
        rest.append(pieces.send())
    assert "".join(rest) == whole[confirmed:]


def test_what_will_not_be_sent_again_is_not_kept() -> None:
    pieces = SendBuffer(3, joins=False, keeps=False)
    pieces.add("abcdef")
    assert (pieces.send(), pieces.send()) == ("abc", "def")
    assert pieces.unconfirmed_count == 0
    pieces.again()
    assert not pieces.is_ready


@pytest.mark.parametrize("joins", [True, False])
def test_nothing_is_no_piece(*, joins: bool) -> None:
    pieces = SendBuffer(3, joins=joins, keeps=True)
    pieces.add("")
    pieces.end()
    assert not pieces.is_ready
