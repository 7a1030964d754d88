"""A message in parts against the same message filled in place, by protobuf itself."""

from hypothesis import given
from hypothesis import strategies as st
from segue.v1 import scoring_pb2 as pb
from segue_server.api.parted_message import PartedMessage

TEXTS = st.lists(st.tuples(st.text(max_size=3000), st.lists(st.integers(0, 2**32 - 1), max_size=200)), max_size=8)


@given(st.text(max_size=10), TEXTS, st.integers(1, 50))
def test_the_parts_in_a_row_are_the_message(model: str, texts: list[tuple[str, list[int]]], step: int) -> None:
    whole = pb.ScoreResponse(model=model)
    parted = PartedMessage(pb.ScoreResponse(model=model))
    for text, positions in texts:
        score = PartedMessage(pb.TextScore(text=text))
        for number, position in enumerate(positions):
            score.message.windows.add(first=position)
            if number % step == 0:
                score.cut()
        parted.put("scores", score.take())
        whole.scores.add(text=text, windows=[pb.WindowScore(first=position) for position in positions])
    parted.message.repeated = whole.repeated = True
    assert pb.ScoreResponse.FromString(b"".join(parted.take())) == whole


def test_an_empty_message_is_set() -> None:
    parted = PartedMessage(pb.ScoreStreamResponse())
    parted.put("finished", PartedMessage(pb.ScoreStreamFinished()).take())
    assert pb.ScoreStreamResponse.FromString(b"".join(parted.take())).WhichOneof("event") == "finished"
