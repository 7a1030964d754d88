"""JSON lines come back as the bytes that they were, however they were written, and whatever is wrong with them."""

import bz2
import gzip
import io
import json
import lzma
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_client import Client, InvalidRequest, Score
from segue_client.commands.main import segue
from segue_client.commands.score.byte_lines import ANY_LINE_END, LINE_FEED, LineSplitter
from segue_client.commands.score.inputs import Input
from segue_client.commands.score.records import read_records

BLANKS = st.text(" \t\r", max_size=2)
NUMBERS = st.sampled_from(
    ["0", "-0", "1.10", "1E2", "1e400", "-1e-400", "123456789012345678901234567890.5", "7" * 5000, "1.0e+05"]
)


@st.composite
def written_strings(draw: Callable[..., Any]) -> str:
    """A JSON string, with more escapes than it needs."""
    escapes = st.sampled_from([r"\u00e9", r"\ud800", r"\ud83d\ude00", r"\/", r"\n", r"\"", r"\\", r"\u0061"])
    plain = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\')
    return f'"{"".join(draw(st.lists(st.one_of(plain, escapes), max_size=8)))}"'


def spread(draw: Callable[..., Any], opening: str, items: list[str], closing: str) -> str:
    spaced = [f"{draw(BLANKS)}{item}{draw(BLANKS)}" for item in items]
    return f"{opening}{draw(BLANKS) if not items else ''}{','.join(spaced)}{closing}"


@st.composite
def written_values(draw: Callable[..., Any], depth: int = 2) -> str:
    leaves = st.one_of(NUMBERS, written_strings(), st.sampled_from(["true", "false", "null"]))
    kind = draw(st.sampled_from(["leaf", "list", "object"])) if depth else "leaf"
    if kind == "list":
        return spread(draw, "[", draw(st.lists(written_values(depth - 1), max_size=3)), "]")
    if kind == "object":
        return draw(written_objects(depth - 1))
    return draw(leaves)


@st.composite
def written_objects(draw: Callable[..., Any], depth: int = 1) -> str:
    """A JSON object with fields in any order, also several of one name."""
    names = st.one_of(written_strings(), st.sampled_from(['"a"', '"text"', '"error"', r'"sc\u006fre"']))
    fields = draw(st.lists(st.tuples(names, BLANKS, BLANKS, written_values(depth)), max_size=4))
    return spread(draw, "{", [f"{name}{left}:{right}{value}" for name, left, right, value in fields], "}")


def tokens(line: str | bytes) -> Any:
    """What a reader finds that looks at everything: pairs in order, and numbers as they are written."""
    return json.loads(
        line, object_pairs_hook=list, parse_int=lambda digits: f"#{digits}", parse_float=lambda n: f"#{n}"
    )


@given(line=st.tuples(BLANKS, written_objects(), BLANKS).map("".join))
def test_an_object_comes_back_as_it_was_with_one_more_field(line: str) -> None:
    [(record, text)] = [each for each in read_records(Input("f", io.BytesIO(line.encode())), "text", "score") if each]
    fields = json.loads(line, parse_int=float)
    is_good = isinstance(fields.get("text"), str) and "score" not in fields
    assert isinstance(text, str) == is_good
    if is_good:
        assert text == fields["text"]
        out = record.with_field("score", {"sum": -1.5})
        assert tokens(out) == [*tokens(line), ("score", [("sum", "#-1.5")])]
        head = line[: line.rindex("}")].rstrip(" \t\r\n")
        assert out.startswith(head.encode())
        assert out.endswith(line[len(head) :].encode())
        return
    out = record.with_error("why", "score")
    if {"score", "error"} & fields.keys():
        assert json.loads(out) == {"record": line.rstrip("\r"), "error": "why"}
    else:
        assert tokens(out) == [*tokens(line), ("error", "why")]


@given(data=st.binary(max_size=40), cuts=st.lists(st.integers(0, 40)), end=st.sampled_from([ANY_LINE_END, LINE_FEED]))
def test_bytes_are_cut_into_lines_wherever_they_arrive(data: bytes, cuts: list[int], end: Any) -> None:
    data = data.replace(b"a", b"\n").replace(b"b", b"\r").replace(b"\x00", b"\r\n")
    places = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    splitter = LineSplitter(end)
    pieces = [data[a:b] for a, b in pairwise(places)]
    lines = [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.end())
    whole = data.removeprefix(b"\xef\xbb\xbf")
    expected = end.split(whole)
    assert [line.data for line in lines] == (expected if expected[-1] else expected[:-1])
    assert [line.number for line in lines] == list(range(1, len(lines) + 1))
    assert all(data[line.first :].startswith(line.data) for line in lines)


@pytest.fixture
def run(peer: Any, refusing: None) -> Any:
    """Run `segue score` against a toy that refuses texts with an Ā as a server does."""
    del refusing

    def invoke(*arguments: object, stdin: bytes = b"") -> Result:
        environment = {"SEGUE_SERVER": peer.address}
        return CliRunner().invoke(segue, ["score", *map(str, arguments)], input=stdin, env=environment)

    return invoke


BAD = [b"{", b"[1]", b"{}", b'{"text": null}', b'{"text": "\xff"}', b'{"text": "\xc4\x80"}', b'{"text": "\\ud800"}']


@pytest.mark.parametrize("policy", ["keep", "skip"])
def test_bad_records_do_not_end_the_run(run: Any, policy: str) -> None:
    good = [b'{"id": %d, "text": "ab", "x": 1.10}' % number for number in range(len(BAD))]
    lines = [line for pair in zip(good, BAD, strict=True) for line in pair]
    result = run("-", "--jsonl", "--bad-rows", policy, stdin=b"\n".join(lines))
    found = result.stdout_bytes.splitlines()
    assert result.exit_code == 4
    assert result.stderr.startswith("7 of 14 rows could not be scored; the first: standard input:2 is not JSON: ")
    assert len(result.stderr.splitlines()) == 1
    scored, bad = (found[::2], found[1::2]) if policy == "keep" else (found, [])
    assert len(bad) == (len(BAD) if policy == "keep" else 0)
    for line, out in zip(good, scored, strict=True):
        assert out.startswith(line[:-1] + b', "score": {"sum_log_probability": ')
    for number, out in enumerate(bad):
        assert "standard input" in json.loads(out)["error"]
        assert f"standard input:{2 * number + 2}" in json.loads(out)["error"]


def test_all_records_may_be_bad(run: Any, peer: Any) -> None:
    result = run("-", "--jsonl", "--bad-rows", "keep", stdin=b"nope\n" * 2500)
    assert (result.exit_code, len(result.stdout.splitlines())) == (4, 2500)
    assert result.stderr.startswith("2,500 of 2,500 rows could not be scored; ")
    assert peer.requests == []


def test_good_records_alone_end_well(run: Any) -> None:
    result = run("-", "--jsonl", "--bad-rows", "skip", stdin=b'{"text": "a"}\r\n\r\n')
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout_bytes.endswith(b"}}\r\n")


def test_bad_lines_are_kept_or_left_out(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes("good\nbĀd\n".encode() + b"w\xffrse\nfine\n")
    kept = run(path, "--lines", "--bad-rows", "keep", "--json")
    rows = [json.loads(line) for line in kept.stdout.splitlines()]
    assert [("error" in row, row["line"]) for row in rows] == [(False, 1), (True, 2), (True, 3), (False, 4)]
    assert [row["text"] for row in rows] == ["good", "bĀd", "w\udcffrse", "fine"]
    table = run(path, "--lines", "--bad-rows", "keep").stdout.splitlines()
    assert table[2].split()[:6] == ["-"] * 5 + [f"{path}:2:"]
    assert len(table) == 6
    left_out = run(path, "--lines", "--bad-rows", "skip", "--sort", "surprising")
    assert [line.split()[-1] for line in left_out.stdout.splitlines()[1:]] in (
        ["good", "fine", "together"],
        ["fine", "good", "together"],
    )
    for result in (kept, left_out):
        assert result.exit_code == 4
        message = f"2 of 4 rows could not be scored; the first: {path}:2: character 'Ā' at position 1\n"
        assert result.stderr == message


LOG = "".join(f"line {number} of a log\n" for number in range(2000))


@pytest.mark.parametrize("mode", ["--lines", "--jsonl"])
@pytest.mark.parametrize("policy", ["stop", "keep", "skip"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.log.gz", gzip.compress(LOG.encode())),
        ("a.log.xz", lzma.compress(LOG.encode())),
        ("a.log.bz2", bz2.compress(LOG.encode())),
        ("a.log.zst", b"\x28\xb5\x2f\xfd\nabc\n"),
        ("16.log", LOG.encode("utf-16")),
        ("32.log", LOG.encode("utf-32")),
    ],
)
def test_what_is_no_text_has_no_rows(
    run: Any, peer: Any, tmp_path: Path, *, name: str, data: bytes, mode: str, policy: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    result = run(path, mode, "--bad-rows", policy)
    assert (result.exit_code, result.stdout, peer.requests) == (2, "", [])
    assert len(result.stderr.splitlines()) == 1
    assert "--bad-rows" not in result.stderr
    command = result.stderr.partition("for example with: ")[2]
    if name != "a.log.zst":
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
        assert (tmp_path / "NEW").read_text() == LOG


def test_a_text_may_begin_like_a_compressed_file(run: Any) -> None:
    assert run("-", "--lines", stdin=b"BZh is how it begins\n").exit_code == 0


@pytest.mark.parametrize("extra", [[], ["--jobs", "1"], ["--html", "page.html"]])
def test_bad_files_are_kept(run: Any, tmp_path: Path, extra: list[str]) -> None:
    extra = [str(tmp_path / word) if word == "page.html" else word for word in extra]
    files = [tmp_path / name for name in ("good", "bad", "large", "fine")]
    for file, data in zip(files, (b"ab", b"\xff", b"a" * 100_000 + b"\xff", b"cd"), strict=True):
        file.write_bytes(data)
    result = run(*files, "--text", "Ā", "--bad-rows", "keep", "--json", *extra)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    expected = [(str(file), "error" in row) for file, row in zip(files, rows, strict=False)]
    assert expected == list(zip(map(str, files), (False, True, True, False), strict=True))
    assert result.exit_code == 4
    assert result.stderr.startswith("3 of 5 rows" if not extra or extra[0] == "--jobs" else "2 of 5 rows")


def test_a_more_surprising_row_matters_more_than_a_bad_one(run: Any) -> None:
    arguments = ("-", "--lines", "--threshold", "0", "--bad-rows", "skip")
    assert run(*arguments, stdin="abĀ\nabc\n".encode()).exit_code == 3


@pytest.mark.parametrize("fault", ["the model does not answer", "your ticket cannot be continued"])
def test_what_is_wrong_with_every_row_ends_the_run(run: Any, peer: Any, fault: str) -> None:
    peer.fail(grpc.StatusCode.INVALID_ARGUMENT, fault)
    result = run("-", "--lines", "--bad-rows", "skip", stdin=b"abc\nabc\n")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"Error: {fault}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        "- --window 3",
        "- --lines --carry",
        "- --running",
        "--context a --candidate b",
        "- --jsonl --into error",
    ],
)
def test_bad_rows_are_for_rows_on_their_own(run: Any, peer: Any, arguments: str) -> None:
    result = run(*arguments.split(), "--bad-rows", "keep", stdin=b"abc")
    assert result.exit_code == 2
    assert "--bad-rows" in result.stderr
    assert peer.requests == []


@settings(max_examples=20)
@given(texts=st.lists(st.sampled_from(["ab", "aĀ", "a\ud800", "", "abc" * 40]), max_size=30), jobs=st.integers(1, 4))
def test_each_text_has_its_score_or_its_refusal(server: Any, texts: list[str], jobs: int) -> None:
    with Client(server.address) as client:
        outcomes = list(client.try_score_each(iter(texts), jobs=jobs, unknown="refuse"))
        assert len(outcomes) == len(texts)
        for number, (text, outcome) in enumerate(zip(texts, outcomes, strict=True)):
            if text in ("aĀ", "a\ud800"):
                assert isinstance(outcome, InvalidRequest)
                assert str(outcome).startswith(f"texts[{number}]")
            else:
                assert isinstance(outcome, Score)
                assert outcome == client.score(text, unknown="refuse")
