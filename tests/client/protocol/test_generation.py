"""However the calls break, what comes of them together is the uninterrupted text."""

import random
from collections.abc import Iterator
from inspect import GEN_CREATED, getgeneratorstate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue.v1 import alternatives_pb2
from segue.v1 import generation_pb2 as pb
from segue_client import Chunk, FinishReason, NotExact, NotRewindable, ServerFault, ServerUnavailable
from segue_client.messages.generation_request import GenerationOptions
from segue_client.protocol.generation import RESUME_INTERVAL, ResumableTexts, resumable_texts

HOST = {"sha256": "ab" * 32, "host_class": "cd" * 16}


class ToyModel:
    """Writes, at each position, a character that depends on seed and position alone; cuts and breaks as it is told."""

    def __init__(self, randomness: random.Random, *, longest_chunk: int = 5, drains: bool = False) -> None:
        self._randomness = randomness
        self._longest_chunk = longest_chunk
        self._drains = drains
        self.requests: list[pb.GenerateRequest] = []

    @staticmethod
    def character(seed: int, position: int) -> str:
        return "abcdé你𝄞 "[random.Random(seed * 1_000_003 + position).randrange(8)]

    def answer(self, request: pb.GenerateRequest, life: int) -> Iterator[pb.GenerateResponse]:
        """Answer as the contract says, for `life` messages of text; then break, or drain."""
        self.requests.append(request)
        seed = request.sampling.seed if request.sampling.HasField("seed") else 7
        continuation = {**HOST, "exact": True}
        yield pb.GenerateResponse(
            started=pb.GenerationStarted(model="toy", version=3, seed=seed, continuation=continuation)
        )
        samples = [self._sample(request, seed + i, i) for i in range(request.samples)]
        while samples:
            if life == 0:
                yield from self._end(samples)
                return
            turn = self._randomness.randrange(len(samples))
            life -= 1
            message = next(samples[turn])
            yield message
            if message.WhichOneof("event") == "finished":
                del samples[turn]

    def _end(self, samples: list[Any]) -> Iterator[pb.GenerateResponse]:
        if not self._drains or any(getgeneratorstate(sample) == GEN_CREATED for sample in samples):
            raise ServerUnavailable("broken")
        for sample in samples:
            yield sample.send("drain")

    def _sample(self, request: pb.GenerateRequest, seed: int, sample: int) -> Iterator[pb.GenerateResponse]:
        start = position = int(request.start.ticket or b"100") + len(request.prompt)
        ticket_at, written = position, request.written_before
        end = position + request.max_characters
        while True:
            reason, stop, text, at = pb.FINISH_REASON_UNSPECIFIED, "", "", position
            for _ in range(self._randomness.randint(1, self._longest_chunk)):
                text += self.character(seed, position)
                written += text[-1]
                position += 1
                stop = next((stop for stop in request.stop if written.endswith(stop)), "")
                reason = pb.FINISH_REASON_STOP if stop else pb.FINISH_REASON_LENGTH if position == end else reason
                if reason:
                    break
            due = request.ticket_interval and not reason and position >= ticket_at + request.ticket_interval
            ticket_at = position if due else ticket_at
            chunk = pb.GeneratedText(
                text=text,
                position=position,
                ticket=b"%d" % position if due else b"",
                log_probabilities=[-p / 8 for p in range(at, position)],
                alternatives=[
                    alternatives_pb2.Alternatives(characters="x", log_probabilities=[-p]) for p in range(at, position)
                ],
            )
            told = yield pb.GenerateResponse(text=chunk, sample=sample)
            if told == "drain" and not reason:
                reason = pb.FINISH_REASON_DRAINED
            if reason:
                yield pb.GenerateResponse(
                    finished=pb.GenerationFinished(
                        reason=reason,
                        stop=stop,
                        generated_count=position - start,
                        ticket=b"%d" % position,
                        position=position,
                    ),
                    sample=sample,
                )


def read(texts: ResumableTexts, model: ToyModel, lives: Iterator[int]) -> list[list[Chunk]]:
    """Read to the end; each call lives for so many messages."""
    heard: list[list[Chunk]] = [[] for _ in texts.finished]
    while not texts.has_ended:
        try:
            for message in [*_until_break(model.answer(texts.next_request(), next(lives))), None]:
                if isinstance(message, ServerUnavailable):
                    raise message
                if taken := texts.receive(message):
                    heard[taken[0]].append(taken[1])
        except ServerUnavailable:
            continue
    return heard


def _until_break(messages: Iterator[pb.GenerateResponse]) -> Iterator[Any]:
    try:
        yield from messages
    except ServerUnavailable as error:
        yield error


def whole(chunks: list[Chunk]) -> dict[str, Any]:
    return {
        "text": "".join(chunk.text for chunk in chunks),
        "log_probabilities": [each for chunk in chunks for each in chunk.log_probabilities],
        "alternatives": [each for chunk in chunks for each in chunk.alternatives],
        "position": chunks[-1].position,
    }


@settings(max_examples=300)
@given(
    chance=st.integers(0, 2**32),
    characters=st.integers(1, 60),
    ticket_interval=st.sampled_from([None, 0, 1, 7]),
    samples=st.integers(1, 3),
    lives=st.lists(st.integers(0, 12), max_size=6),
    drains=st.booleans(),
    stop=st.sampled_from([(), ("b",), ("ab", "é你"), (" d a",)]),
)
def test_broken_calls_bring_the_uninterrupted_text(
    *,
    chance: int,
    characters: int,
    ticket_interval: int | None,
    samples: int,
    lives: list[int],
    drains: bool,
    stop: tuple[str, ...],
) -> None:
    options: dict[str, Any] = {
        "max_characters": characters,
        "ticket_interval": ticket_interval,
        "stop": stop,
        "log_probabilities": True,
        "top_alternatives": 1,
        "written_before": " d",
        "seed": 11,
    }

    def ask(lives: Iterator[int]) -> tuple[ResumableTexts, list[list[Chunk]]]:
        texts = resumable_texts("before", GenerationOptions(**options), samples, resume=True)
        model = ToyModel(random.Random(chance), drains=drains)
        return texts, read(texts, model, lives)

    uninterrupted, expected = ask(iter([-1]))
    texts, heard = ask(iter([*lives, -1]))
    assert [whole(chunks) for chunks in heard] == [whole(chunks) for chunks in expected]
    assert texts.finished == uninterrupted.finished
    assert texts.started == uninterrupted.started
    for chunks in heard:
        at = 106
        for chunk in chunks:
            at += len(chunk.text)
            assert chunk.position == at
            assert chunk.ticket in (None, b"%d" % at)
            assert chunk.text


def begun(*messages: pb.GenerateResponse, samples: int = 1, **options: Any) -> ResumableTexts:
    """A text of which so much has come."""
    texts = resumable_texts("before", GenerationOptions(**options), samples, resume=True)
    texts.next_request()
    for message in messages:
        texts.receive(message)
    return texts


def test_the_next_call_goes_on_from_the_last_ticket(script: Any) -> None:
    texts = begun(
        script.started(seed=9),
        script.text("x" * 100),
        script.text("y" * 60, ticket=b"sealed"),
        script.text("z" * 5),
        max_characters=500,
        stop="end",
        temperature=0.5,
        return_ticket=True,
        exact=False,
        ticket=b"first",
        ticket_interval=50,
    )
    request = texts.next_request()
    assert (request.model.name, request.model.version) == ("toy", 1)
    assert (request.start.ticket, request.start.exact, request.prompt) == (b"sealed", False, "")
    assert request.max_characters == 340
    assert request.written_before == "x" * 67 + "y" * 60
    assert (request.sampling.temperature, request.sampling.seed) == (0.5, 9)
    assert (list(request.stop), request.return_ticket, request.ticket_interval) == (["end"], True, 50)
    assert request == texts.next_request(), "a call that came to nothing changes nothing"


def test_before_the_first_ticket_the_request_is_repeated_with_the_seed(script: Any) -> None:
    texts = begun(script.started(seed=9), script.text("abc"), ticket=b"first", written_before="w")
    request = texts.next_request()
    assert (request.start.ticket, request.prompt, request.written_before) == (b"first", "before", "w")
    assert (request.max_characters, request.sampling.seed) == (256, 9)


def test_a_session_is_repeated_with_its_key(script: Any) -> None:
    texts = resumable_texts("", GenerationOptions(session="mine", max_characters=100_000), resume=True)
    first = texts.next_request()
    assert len(first.start.session.request_key) == 32
    texts.receive(script.started())
    texts.receive(script.text("abc", ticket=b"of a session"))
    again = texts.next_request()
    assert again.start == first.start
    assert again.max_characters == 100_000
    assert first.ticket_interval == 0
    other = resumable_texts("", GenerationOptions(session="mine"), resume=True).next_request()
    assert other.start.session.request_key != first.start.session.request_key


def test_tickets_are_asked_for_where_they_pay() -> None:
    def interval(characters: int, samples: int = 1, *, resume: bool = True, **options: Any) -> int:
        texts = resumable_texts("", GenerationOptions(max_characters=characters, **options), samples, resume=resume)
        return texts.next_request().ticket_interval

    assert interval(RESUME_INTERVAL + 1) == RESUME_INTERVAL
    assert interval(RESUME_INTERVAL) == interval(10_000, 2) == interval(10_000, resume=False) == 0
    assert interval(10_000, ticket_interval=0) == 0
    assert interval(10, ticket_interval=7) == interval(10_000, ticket_interval=7, resume=False) == 7


@pytest.mark.parametrize(("asked", "shown"), [(None, None), (5, b"t")])
def test_tickets_that_the_caller_did_not_ask_for_are_kept_from_it(
    script: Any, asked: int | None, shown: bytes | None
) -> None:
    texts = begun(script.started(), max_characters=5000, ticket_interval=asked)
    taken = texts.receive(script.text("abc", ticket=b"t"))
    assert taken
    assert taken[1].ticket == shown
    assert texts.next_request().start.ticket == b"t"


def test_no_ticket_is_kept_where_nothing_is_left_to_write(script: Any) -> None:
    """max_characters 0 would be read as the default."""
    texts = begun(script.started(), script.text("abc", ticket=b"t"), max_characters=3, ticket_interval=1)
    assert texts.next_request().max_characters == 3


def test_another_text_after_a_break_is_noticed(script: Any) -> None:
    for again in (["abX", "d"], ["a", "bX", "d"], ["abXd"]):
        texts = begun(script.started(), script.text("abc"))
        texts.next_request()
        texts.receive(script.started())
        with pytest.raises(NotExact, match="another text"):
            for piece in again:
                assert not texts.receive(script.text(piece))


def test_a_shorter_text_after_a_break_is_a_fault(script: Any) -> None:
    texts = begun(script.started(), script.text("abc"))
    texts.next_request()
    texts.receive(script.started())
    texts.receive(script.text("ab"))
    with pytest.raises(ServerFault, match="2 characters of the 3"):
        texts.receive(script.finished())


@pytest.mark.parametrize("other", [{"sha256": "00" * 32}, {"host_class": "00" * 16}])
def test_another_host_goes_on_only_where_that_is_allowed(script: Any, other: dict[str, str]) -> None:
    for exact in (True, False):
        texts = begun(script.started(continuation=HOST), script.text("abc"), exact=exact)
        texts.next_request()
        elsewhere = script.started(continuation={**HOST, **other})
        if exact:
            with pytest.raises(NotExact, match="choose exact=False"):
                texts.receive(elsewhere)
        else:
            texts.receive(elsewhere)
            taken = texts.receive(script.text("abcd"))
            assert taken
            assert taken[1].text == "d"


def test_started_stays_what_the_first_server_said(script: Any) -> None:
    texts = begun(script.started(seed=9, unknown_count=2), script.text("abc"))
    assert texts.resumed_count == 0
    texts.next_request()
    texts.receive(script.started(seed=9, unknown_count=0))
    assert texts.started
    assert (texts.started.unknown_count, texts.resumed_count) == (2, 1)


def drained(script: Any, count: int, **fields: Any) -> Any:
    return script.finished(reason=pb.FINISH_REASON_DRAINED, generated_count=count, **fields)


def test_where_nobody_goes_on_a_drained_text_ends_with_its_ticket(script: Any) -> None:
    texts = begun(script.started(), script.text("abc"), drained(script, 3, ticket=b"t", position=9))
    with pytest.raises(ServerUnavailable) as caught:
        texts.receive(None)
    assert caught.value.was_reached
    assert texts.next_request().start.ticket == b"t"
    texts.finish_drained(caught.value)
    assert texts.has_ended
    [finished] = texts.finished
    assert finished
    assert (finished.reason, finished.generated_count, finished.ticket) == (FinishReason.DRAINED, 3, b"t")


def test_a_ticket_of_a_drained_text_is_no_end_once_another_server_went_on(script: Any) -> None:
    texts = begun(script.started(), script.text("abc"), drained(script, 3, ticket=b"t"))
    with pytest.raises(ServerUnavailable):
        texts.receive(None)
    texts.next_request()
    texts.receive(script.started())
    assert texts.receive(script.text("d"))
    with pytest.raises(ServerUnavailable, match="gone"):
        texts.finish_drained(ServerUnavailable("gone"))
    assert not texts.has_ended


@pytest.mark.parametrize("characters", [0, 1])
def test_a_text_without_any_state_cannot_be_taken_back_at_all(script: Any, characters: int) -> None:
    for texts in (begun(script.started()), begun(script.started(), script.text("abc"), session="mine")):
        assert texts.rewindable_count == 0
        with pytest.raises(NotRewindable, match="no earlier state to return to") as caught:
            texts.rewound(characters)
        assert caught.value.rewindable_count == 0


def test_a_text_in_a_session_can_be_taken_back_to_its_tickets(script: Any) -> None:
    texts = begun(
        script.started(), script.text("abc", ticket=b"three"), script.text("d"), session="mine", ticket_interval=3
    )
    assert texts.rewindable_count == 1
    assert texts.rewound(1) == b"three"
    again = texts.rewound(0)
    assert not isinstance(again, bytes)
    request = again.next_request()
    assert (request.start.ticket, request.start.HasField("session"), request.max_characters) == (b"three", False, 1)


def test_a_text_that_has_ended_is_not_gone_on_with(script: Any) -> None:
    texts = resumable_texts("", GenerationOptions(), 2, resume=True)
    texts.next_request()
    for message in (script.started(), script.text("ab"), script.finished(generated_count=2)):
        texts.receive(message)
    texts.next_request()
    texts.receive(script.started())
    with pytest.raises(ServerFault, match="had ended"):
        texts.receive(script.text("abc"))


def test_a_ticket_that_is_behind_what_was_delivered_is_no_end(script: Any) -> None:
    texts = begun(script.started(), script.text("abc"))
    texts.next_request()
    for message in (script.started(), script.text("ab"), drained(script, 2, ticket=b"t")):
        texts.receive(message)
    with pytest.raises(ServerUnavailable) as caught:
        texts.receive(None)
    with pytest.raises(ServerUnavailable):
        texts.finish_drained(caught.value)
    assert texts.next_request().start.ticket == b""


def test_without_resuming_a_drained_text_has_ended(script: Any) -> None:
    texts = resumable_texts("", GenerationOptions(), resume=False)
    texts.next_request()
    for message in (script.started(), script.text("abc"), drained(script, 3, ticket=b"t"), None):
        texts.receive(message)
    assert texts.has_ended
    assert texts.finished[0]
    assert texts.finished[0].reason is FinishReason.DRAINED
