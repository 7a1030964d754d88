"""Requests are bounded before they are parsed: legitimate ones pass, and what passes is cheap to parse."""

import gc
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import example, given
from hypothesis import strategies as st
from segue.v1 import common_pb2, generation_pb2, scoring_pb2, session_pb2
from segue_server.api.calls.wire_bounds import MAX_OTHER_BYTES, MAX_OTHER_FIELDS, SMALL_MESSAGE_BYTES, check_wire, parse
from segue_server.errors import InvalidRequest
from segue_server.limits import LIMITS, MAX_MESSAGE_BYTES
from segue_server.runtime.time_slices import at_once

REQUESTS = (
    generation_pb2.GenerateRequest,
    scoring_pb2.ScoreRequest,
    scoring_pb2.ScoreCandidatesRequest,
    scoring_pb2.ScoreStreamRequest,
    session_pb2.ForkSessionRequest,
)
MOST = {
    "segue.v1.GenerateRequest.stop": LIMITS.max_stops,
    "segue.v1.Sampling.biases": LIMITS.max_biases,
    "segue.v1.ScoreRequest.texts": LIMITS.max_texts,
    "segue.v1.ScoreCandidatesRequest.candidates": LIMITS.max_candidates,
    "segue.v1.ForkSessionRequest.names": LIMITS.max_forks,
}
"""How often a message may have a field."""
MOST_FIELDS = max(LIMITS.max_texts, LIMITS.max_candidates) + MAX_OTHER_FIELDS
"""That any message may have, those inside it included."""

characters = st.text(st.characters(codec="utf-8"), max_size=6)
models = st.builds(common_pb2.ModelReference, name=characters, version=st.integers(0, 2**32 - 1))
starts = st.builds(common_pb2.Start, ticket=st.binary(max_size=40), exact=st.booleans())
policies = st.builds(scoring_pb2.ScoringPolicies, unknown=st.integers(0, 2), begin=st.integers(0, 2))


def repeated(most: int) -> st.SearchStrategy[list[str]]:
    return st.builds(lambda text, count: [text] * count, characters, st.sampled_from([0, 1, most // 2, most]))


legitimate: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        generation_pb2.GenerateRequest,
        model=models,
        start=starts,
        prompt=st.sampled_from(["", "a" * LIMITS.max_prompt, "𝄞" * LIMITS.max_prompt]),
        stop=repeated(LIMITS.max_stops),
        sampling=st.builds(
            generation_pb2.Sampling,
            temperature=st.floats(),
            seed=st.integers(0, 2**64 - 1),
            biases=st.builds(
                lambda bias, count: [generation_pb2.CharacterBias(character="é", bias=bias)] * count,
                st.floats(),
                st.sampled_from([0, LIMITS.max_biases]),
            ),
            allowed_characters=st.sampled_from(["", "𝄞" * LIMITS.max_listed]),
            forbidden_characters=st.sampled_from(["", "𝄞" * LIMITS.max_listed]),
        ),
        written_before=st.sampled_from(["", "𝄞" * LIMITS.max_generated]),
    ),
    st.builds(
        scoring_pb2.ScoreRequest,
        model=models,
        start=starts,
        texts=repeated(LIMITS.max_texts),
        policies=policies,
        windows=st.builds(scoring_pb2.Windows, characters=st.integers(0, 2**32 - 1)),
    ),
    st.builds(
        scoring_pb2.ScoreCandidatesRequest,
        context=st.sampled_from(["", "𝄞" * LIMITS.max_prompt]),
        candidates=repeated(LIMITS.max_candidates),
        policies=policies,
    ),
    st.builds(scoring_pb2.ScoreStreamRequest, text=st.sampled_from(["", "𝄞" * LIMITS.max_scored])),
    st.builds(session_pb2.ForkSessionRequest, model=models, names=repeated(LIMITS.max_forks)),
)


@given(legitimate)
def test_every_request_within_the_limits_passes(request: Message) -> None:
    encoded = request.SerializeToString(deterministic=True)
    at_once(check_wire(encoded, type(request)))
    assert at_once(parse(encoded, type(request))).SerializeToString(deterministic=True) == encoded


def test_a_message_parsed_in_parts_is_the_whole_one_parsed() -> None:
    """Wherever its large fields are, and whatever it has twice."""
    parts = [
        scoring_pb2.ScoreCandidatesRequest(context="a" * 1_100_000, model=common_pb2.ModelReference(name="model")),
        scoring_pb2.ScoreCandidatesRequest(candidates=["é" * 300_000] * 5, start=common_pb2.Start(exact=True)),
        scoring_pb2.ScoreCandidatesRequest(context="b" * 1_200_000, model=common_pb2.ModelReference(version=3)),
        scoring_pb2.ScoreCandidatesRequest(candidates=["c"] * 50, start=common_pb2.Start(ticket=b"ticket")),
    ]
    data = b"".join(part.SerializeToString() for part in parts)
    whole = scoring_pb2.ScoreCandidatesRequest.FromString(data)
    assert at_once(parse(data, scoring_pb2.ScoreCandidatesRequest)) == whole


def test_large_fields_are_parsed_one_in_a_step() -> None:
    text = "𝄞" * LIMITS.max_prompt
    data = generation_pb2.GenerateRequest(prompt=text, written_before=text).SerializeToString()
    steps, sizes = parse(data, generation_pb2.GenerateRequest), [0]
    with pytest.raises(StopIteration):
        while True:
            next(steps)
            parsed = (steps.gi_frame.f_locals if steps.gi_frame else {}).get("parsed")
            sizes.append(0 if parsed is None else parsed.ByteSize())
    assert max(after - before for before, after in pairwise(sizes)) < len(data) * 0.6


keys = st.one_of(
    st.builds(lambda number, wire_type: number << 3 | wire_type, st.integers(1, 16), st.sampled_from([0, 1, 2, 5])),
    st.sampled_from([0x1A, 0x22, 0x32]),  # texts, names; candidates, sampling; stops, biases
)


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number % 0x80 | 0x80)
        number //= 0x80
    return bytes([*encoded, number])


@st.composite
def wires(draw: st.DrawFn, depth: int = 0) -> bytes:
    """Bytes that look like a message: fields of any number and type, often many of one kind, and nested ones."""
    parts = []
    for key in draw(st.lists(keys, max_size=4)):
        content = {0: b"\x01", 1: bytes(8), 5: bytes(4)}.get(key & 7)
        if content is None:
            inside = draw(wires(depth + 1)) if depth < 2 else draw(st.binary(max_size=4))
            content = varint(len(inside)) + inside
        parts.append((varint(key) + content) * draw(st.sampled_from([1, 1, 2, 50, 300, 20_000])))
        if sum(map(len, parts)) > 200_000:
            break
    return b"".join(parts)[:400_000]


@given(wires(), st.sampled_from(REQUESTS))
@example(b"\x1a\x00" * (LIMITS.max_texts + 1), scoring_pb2.ScoreRequest)
@example(b"\x22\x00" * (LIMITS.max_candidates + 1), scoring_pb2.ScoreCandidatesRequest)
@example(b"\x32\x00" * (LIMITS.max_stops + 1), generation_pb2.GenerateRequest)
@example(b"\x22\x02\x32\x00" * (LIMITS.max_biases + 1), generation_pb2.GenerateRequest)
@example(b"\x1a\x00" * (LIMITS.max_forks + 1), session_pb2.ForkSessionRequest)
def test_what_passes_has_few_fields_once_it_is_parsed(data: bytes, message: type[Message]) -> None:
    try:
        at_once(check_wire(data, message))
        parsed = message.FromString(data)
    except (InvalidRequest, DecodeError):
        return
    counts = counted(parsed)
    assert counts.total() <= MOST_FIELDS
    assert [name for name, most in MOST.items() if counts[name] > most] == []


def counted(message: Message) -> Counter[str]:
    """Count the known values, and those inside them, by the full names of their fields."""
    counts = Counter[str]()
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            counts[field.full_name] += 1
            if isinstance(each, Message):
                counts += counted(each)
    return counts


@pytest.mark.parametrize(
    ("message", "data", "words"),
    [
        (scoring_pb2.ScoreRequest, b"\x1a\x00" * 4_000_000, "number of texts: more than the 4,096"),
        (scoring_pb2.ScoreCandidatesRequest, b"\x22\x00" * 4_000_000, "number of candidates: more than the 4,096"),
        (generation_pb2.GenerateRequest, b"\x32\x00" * 4_000_000, "number of stop strings: more than the 16"),
        (generation_pb2.GenerateRequest, b"\x22\x80\x80\x80\x02" + b"\x32\x00" * 2**21, "number of biases: more than"),
        (generation_pb2.GenerateRequest, b"\x22\x02\x32\x00" * 100_000, "number of biases: more than the 256"),
        (session_pb2.ForkSessionRequest, b"\x1a\x00" * 4_000_000, "number of names: more than the 64"),
        (scoring_pb2.ScoreRequest, b"\xf8\x3f\x01" * 2_000_000, "number of fields: more than the 1,024"),
        (scoring_pb2.ScoreRequest, b"\x0a\x00" * 2_000_000, "number of fields: more than the 1,024"),
        (scoring_pb2.ScoreRequest, b"\xfa\x3f\x81\x80\x04" + bytes(65_537), "an unknown field is 65,537 bytes long"),
        (generation_pb2.GenerateRequest, b"\x0a\x85\x80\x04\x0a\x81\x80\x04" + b"a" * 65_537, "name is 65,537 bytes"),
        (scoring_pb2.ScoreRequest, b"\x0b" * 100_000, "not a message"),
        (scoring_pb2.ScoreRequest, b"\x1a" + b"\xff" * 100_000, "not a message"),
        (scoring_pb2.ScoreRequest, b"\x1a\xff\xff\x7f" + b"a" * 100_000, "not a message"),
        (scoring_pb2.ScoreRequest, b"\x1a\x80\x80\x04" + b"a" * 65_536 + b"\x1a", "not a message"),
    ],
)
def test_a_hostile_message_is_refused_by_its_bytes(message: type[Message], data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        at_once(parse(data, message))
    steps = 0
    with pytest.raises(InvalidRequest):
        for _ in check_wire(data, message):
            steps += 1
    assert steps * 512 <= MOST_FIELDS


def test_small_messages_are_parsed_at_once() -> None:
    """Without a check: whatever is in them, it is little."""
    data = b"\x1a\x00" * (SMALL_MESSAGE_BYTES // 2)
    with pytest.raises(StopIteration) as done:
        next(parse(data, scoring_pb2.ScoreRequest))
    assert len(done.value.value.texts) == SMALL_MESSAGE_BYTES // 2


PEAKS = """
import resource, sys
from segue.v1 import scoring_pb2 as pb
from segue_server.api.calls.wire_bounds import parse
from segue_server.errors import InvalidRequest
from segue_server.runtime.time_slices import at_once
data = {"texts": b"\\x1a\\x00" * 4_000_000, "a text": b"\\x1a\\x80\\x89\\x7a" + b"a" * 2_000_000}[sys.argv[1]]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    kept = at_once(parse(data, pb.ScoreRequest))
except InvalidRequest:
    pass
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / len(data))
"""


@pytest.mark.parametrize("content", ["texts", "a text"])
def test_a_message_takes_little_more_memory_than_its_bytes(content: str) -> None:
    done = subprocess.run([sys.executable, "-c", PEAKS, content], stdout=subprocess.PIPE, text=True, check=True)
    assert float(done.stdout) < 4


def test_a_refused_message_is_not_kept_alive() -> None:
    refused = [b"\x1a\x00" * (100_000 + i) for i in range(20)]
    gc.collect()
    gc.disable()
    try:
        for data in refused:
            with pytest.raises(InvalidRequest):
                at_once(parse(data, scoring_pb2.ScoreRequest))
        del data
        assert [sys.getrefcount(each) for each in refused] == [3] * len(refused)  # the list, `each` and the argument
    finally:
        gc.enable()


def test_bounds_leave_room_for_what_the_limits_allow() -> None:
    listed = 4 * LIMITS.max_listed
    assert listed <= MAX_OTHER_BYTES
    assert 4 * LIMITS.max_prompt < MAX_MESSAGE_BYTES
    assert 2 * LIMITS.max_biases < MAX_OTHER_FIELDS
