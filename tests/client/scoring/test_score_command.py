"""`segue score`, against the toy and against a real server."""

import bz2
import gzip
import json
import lzma
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from segue.v1 import model_pb2
from segue_client import Client, Score
from segue_client.commands.main import segue
from segue_client.commands.score import inputs, scorer
from segue_client.commands.score.rows import Row, sorted_rows

LINES = "abc\r\n\r\nzzz\ra\x85b\u2028c\nlast"
EVIL = "<i>&\"'</pre><script>alert(1)</script>\x1b\n"


@pytest.fixture
def run(peer: Any, toy: Any) -> Any:
    del toy

    def invoke(*arguments: object, stdin: bytes = b"") -> Result:
        environment = {"SEGUE_SERVER": peer.address}
        command = ["score", *map(str, arguments)]
        return CliRunner().invoke(segue, command, input=stdin, env=environment, prog_name="segue")

    return invoke


def rows_of(result: Result) -> list[str]:
    """What follows the numbers in each row."""
    return [line.split(maxsplit=5)[-1] for line in result.stdout.splitlines()[1:]]


def objects_of(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def text_file(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def score_of(toys: Any, text: str, before: str = "") -> float:
    total: float = toys.sum(before + text)
    return total


def test_files_and_texts_have_a_row_each(run: Any, toys: Any, tmp_path: Path) -> None:
    one = text_file(tmp_path, "a.txt", b"\xef\xbb\xbfabc\r\nd")
    result = run(one, "-", "--text", "abc", stdin=b"xyz")
    assert result.exit_code == 0, result.output
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["bits/char", "perplexity", "log-probability", "scored", "unknown", "text"]
    assert rows_of(result) == [str(one), "standard input", '"abc"', "together"]
    expected = score_of(toys, "abc\nd")
    assert f"{expected:,.3f}" in rows[0]
    assert rows[-1].split()[3:5] == ["8", "0"]
    assert rows_of(run("--text", "x\n" * 100)) == ['"' + r"x\n" * 19 + "x…" + '"']


def test_small_files_share_calls_and_large_ones_are_streamed(
    peer: Any, toy: Any, run: Any, *, toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scorer, "SMALL_BYTES", 10)
    texts = ["ab", "abc\r\n", "a" * 100, "é\u0301" * 40, "b", "x" * 50, ""]
    files = [text_file(tmp_path, f"{number}", text) for number, text in enumerate(texts)]
    found = objects_of(run(*files, "--json", "--jobs", "2"))
    assert [each["name"] for each in found] == list(map(str, files))
    expected = [score_of(toys, text.replace("\r\n", "\n")) for text in texts]
    assert [each["sum_log_probability"] for each in found] == expected
    asked = [list(request.texts) for request in peer.requests if hasattr(request, "texts")]
    assert asked == [["ab", "abc\r\n"], ["b"], [""]]
    assert len(toy.starts) == 3


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_file_that_is_not_utf_8_is_refused_after_the_rows_before_it(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, size: int
) -> None:
    monkeypatch.setattr(scorer, "SMALL_BYTES", 50)
    files = [text_file(tmp_path, f"{number}.txt", "abc") for number in range(3)]
    files[place].write_bytes(b"x" * size + b"caf\xe9")
    result = run(*files)
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: {files[place]} is not UTF-8: byte 0xe9 at position {size + 3:,}; it is cut off, or in another "
        f"encoding: convert it first, for example with: iconv -f latin1 -t utf-8 {files[place]} > NEW\n"
    )
    assert rows_of(result)[:place] == list(map(str, files[:place]))


def test_a_character_that_is_cut_off_at_the_end_is_named_too(run: Any) -> None:
    result = run("-", stdin="abcé".encode()[:-1])
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: standard input is not UTF-8: byte 0xc3 at position 3; it is cut off, or in another encoding: "
        "convert it first, for example with: iconv -f latin1 -t utf-8 > NEW\n"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin 1's.txt", "naïve abc\n".encode("latin-1")),
        ("16.txt", "naïve abc\n".encode("utf-16")),
        ("32.txt", "naïve abc\n".encode("utf-32")),
        ("a.txt.gz", gzip.compress("naïve abc\n".encode())),
        ("a.txt.xz", lzma.compress("naïve abc\n".encode())),
        ("a.txt.bz2", bz2.compress("naïve abc\n".encode())),
    ],
    ids=["latin1", "utf-16", "utf-32", "gzip", "xz", "bzip2"],
)
def test_the_remedy_for_what_is_not_utf_8_works(run: Any, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    command = line.partition("for example with: ")[2]
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b""
    assert (tmp_path / "NEW").read_bytes() == "naïve abc\n".encode()


def test_a_file_that_is_utf_8_but_for_a_byte_is_offered_to_lose_it(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("naïve ".encode() + b"\xe9abc\n")
    command = run(path).stderr.partition("; to drop the bad bytes: ")[2]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / "NEW").read_text() == "naïve abc\n"


def test_json_is_one_object_per_line(run: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.txt", "\ufeffab\r\n")
    details = ("--per-character", "--ranks", "--alternatives", "2")
    file, first, second = objects_of(run(path, "--text", "abc", "--text", "", "--json", *details))
    assert (file["text"], first["text"], second["perplexity"]) == ("ab\n", "abc", None)
    assert first["scored_count"] == len(first["log_probabilities"]) == len(first["ranks"]) == 2
    assert [each["character"] for each in first["alternatives"][0]] == ["b", "e"]
    assert sum(first["log_probabilities"]) == first["sum_log_probability"]
    assert not {"text", "log_probabilities"} & set(objects_of(run(path, "--json"))[0])


def test_everything_reaches_the_server(run: Any, peer: Any, tmp_path: Path) -> None:
    ticket = text_file(tmp_path, "ticket", b"5:a")
    options = f"--model toy --model-version 3 --ticket-in {ticket} --unknown refuse --begin begin --end line-feed"
    assert run("--text", "abc", *options.split(), "--inexact", "--tenant", "me").exit_code == 0
    [request] = peer.requests
    assert (request.model.name, request.model.version, request.start.ticket) == ("toy", 3, b"5:a")
    assert (request.policies.unknown, request.policies.begin, request.policies.end) == (2, 2, 2)
    assert request.start.HasField("exact")
    assert not request.start.exact
    assert run("--text", "abc", "--session", "mine").exit_code == 0
    assert peer.requests[-1].start.session.name == "mine"


@pytest.mark.parametrize("what", [["FILE"], ["--text", "abc"], ["FILE", "--window", "2"], ["FILE", "--running"]])
def test_the_state_after_one_text_is_saved(run: Any, tmp_path: Path, what: list[str]) -> None:
    path = text_file(tmp_path, "a.txt", "abc")
    result = run(*[path if word == "FILE" else word for word in what], "--ticket-out", tmp_path / "ticket")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "ticket").read_bytes() == b"3:c"


def test_the_running_score_of_one_file(run: Any, toys: Any, tmp_path: Path) -> None:
    text = "some words of a text\n" * 5000
    path = text_file(tmp_path, "a.txt", text)
    *running, last = objects_of(run(path, "--running", "--json"))
    assert len(running) > 5
    for each in running:
        assert each["sum_log_probability"] == score_of(toys, text[: each["sent_count"]])
    assert (last["sent_count"], last["sum_log_probability"]) == (len(text), score_of(toys, text))


def test_a_threshold_sets_the_exit_status(run: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.txt", "abc\nz\n")
    [found] = objects_of(run(path, "--json"))
    assert run(path, "--threshold", found["bits_per_character"]).exit_code == 0
    result = run(path, "--threshold", found["bits_per_character"] - 0.001)
    assert (result.exit_code, rows_of(result)) == (3, [str(path)])
    assert run("--text", "", "--threshold", "0").exit_code == 0
    assert run("-", "--jsonl", "--threshold", "0", stdin=b'{"text": "abc"}').exit_code == 3


@pytest.mark.parametrize("order", ["--sort expected --top 1", "--sort expected", "--sort surprising --top 1"])
def test_a_threshold_applies_to_rows_that_are_not_printed(run: Any, tmp_path: Path, order: str) -> None:
    path = text_file(tmp_path, "a.txt", "abc\nz\n")
    most = max(each["bits_per_character"] for each in objects_of(run(path, "--lines", "--json")))
    assert run(path, "--lines", *order.split(), "--threshold", most).exit_code == 0
    assert run(path, "--lines", *order.split(), "--threshold", most - 0.001).exit_code == 3


@pytest.mark.usefixtures("toy")
def test_a_threshold_applies_to_the_last_row_of_a_running_score(run: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.txt", "az" * 20_000 + "aa" * 40_000)
    *running, last = [each["bits_per_character"] for each in objects_of(run(path, "--running", "--json"))]
    assert max(running) > last
    assert run(path, "--running", "--threshold", last).exit_code == 0
    assert run(path, "--running", "--threshold", last - 0.001).exit_code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "absent.txt",
        "--text a --per-character",
        "--text a --ranks",
        "--text a --alternatives 3",
        "--text a --carry",
        "--text a --window 3",
        "--text a --jsonl",
        "--text a --top 3",
        "--text a --by sum",
        "--text a --heatmap --json",
        "--text a --running",
        "--text a --html absent/page.html",
        "--text a --text b --ticket-out ticket",
        "--text a --ticket-out absent/ticket",
        "--text a --text b --session s",
        "--text a --context b --candidate c",
        "--context b",
        "--candidate b",
        "--context b --candidate c --heatmap",
        "--context b --candidate c --threshold 1",
        "--context b --candidate c --carry",
        "--context b --candidate c --json --ranks",
        "--context b --candidate c --json --alternatives 2",
        "- --jsonl --sort surprising",
        "--text a --threshold -1",
        "--text a --threshold nan",
        "- --jsonl --lines",
        "- --window 3 --lines",
        "- -",
    ],
)
def test_options_that_do_not_go_together_are_refused_before_any_call(run: Any, peer: Any, arguments: str) -> None:
    assert run(*arguments.split()).exit_code == 2
    assert peer.requests == []


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.parametrize("order", ["expected", "surprising"])
def test_the_remedy_for_sorted_records_works(run: Any, order: str) -> None:
    records = b'{"text": "azzz"}\n{"text": ""}\n{"text": "abc"}\n'
    refused = run("-", "--jsonl", "--sort", order, stdin=records)
    command = refused.stderr.partition("sort its output, with ")[2]
    scored = run("-", "--jsonl", stdin=records).stdout_bytes
    done = subprocess.run(["sh", "-c", command], input=scored, capture_output=True, check=True)
    found = [each["score"]["perplexity"] for each in map(json.loads, done.stdout.splitlines())]
    scores = [value for value in found if value is not None]
    assert (len(found), len(scores)) == (3, 2)
    assert scores == sorted(scores, reverse=order == "surprising")
    assert found[-1 if order == "surprising" else 0] is None


def test_each_line_is_its_own_text(run: Any, peer: Any, toys: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.log", f"\ufeff{LINES}")
    found = objects_of(run(path, "--lines", "--json"))
    assert [(each["line"], each["text"], each["name"]) for each in found] == [
        (1, "abc", f"{path}:1"),
        (3, "zzz", f"{path}:3"),
        (4, "a\x85b\u2028c", f"{path}:4"),
        (5, "last", f"{path}:5"),
    ]
    for each in found:
        assert each["sum_log_probability"] == score_of(toys, f"{each['text']}\n", "\n")
    assert {request.policies.begin for request in peer.requests} == {2}
    found = objects_of(run(path, "--lines", "--json", "--begin", "nothing", "--end", "nothing"))
    assert found[0]["sum_log_probability"] == score_of(toys, "abc")
    steering = text_file(tmp_path, "b.log", "a\x1b[2Jb\n")
    assert rows_of(run(steering, "--lines")) == [f"{steering}:1  a\u241b[2Jb"]


def test_a_byte_order_mark_in_two_pieces_is_left_out(run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inputs, "CHUNK_BYTES", 2)
    [found] = objects_of(run(text_file(tmp_path, "a.log", "\ufeffabc\n"), "--lines", "--json"))
    assert found["text"] == "abc"


def test_the_most_surprising_lines_come_first(run: Any, toys: Any, tmp_path: Path) -> None:
    lines = [f"{chr(97 + number % 26) * (1 + number % 7)} {number}" for number in range(200)]
    path = text_file(tmp_path, "a.log", "\n".join(lines))
    sums = {line: score_of(toys, f"{line}\n", "\n") for line in lines}
    by_sum = sorted(lines, key=lambda line: sums[line])
    by_mean = sorted(lines, key=lambda line: sums[line] / (len(line) + 1))

    def texts(*options: str) -> list[str]:
        return [each["text"] for each in objects_of(run(path, "--lines", "--json", *options))]

    assert texts("--sort", "surprising") == by_mean
    assert texts("--sort", "surprising", "--top", "5", "--by", "sum") == by_sum[:5]
    assert texts("--sort", "expected", "--top", "3") == by_mean[::-1][:3]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30), st.integers(1, 40))
def test_the_top_is_the_beginning_of_all(scores: list[tuple[int, int]], top: int) -> None:
    rows = [
        Row(str(number), Score(sum_log_probability=-total if count else 0, scored_count=count))
        for number, (total, count) in enumerate(scores)
    ]
    for order in ("surprising", "expected"):
        for measure in ("mean", "sum"):
            every = list(sorted_rows(rows, order, measure, None))  # type: ignore[arg-type]
            assert list(sorted_rows(iter(rows), order, measure, top)) == every[:top]  # type: ignore[arg-type]
            assert len(every) == sum(count > 0 for _, count in scores)


def test_carried_lines_are_windows_of_one_text(run: Any, toys: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.log", LINES)
    read = LINES.replace("\r\n", "\n").replace("\r", "\n")
    found = objects_of(run(path, "--lines", "--carry", "--json", "--per-character"))
    assert [each["line"] for each in found] == [1, 2, 3, 4, 5]
    assert "".join(each["text"] for each in found) == read
    assert sum(each["sum_log_probability"] for each in found) == score_of(toys, read)
    for each in found:
        assert sum(each["log_probabilities"]) == each["sum_log_probability"]
        assert len(each["log_probabilities"]) == each["scored_count"]
    total = run(path, "--lines", "--carry").stdout.splitlines()[-1]
    expected = score_of(toys, read)
    assert f"{expected:,.3f}" in total


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_windows_are_places_of_one_text(run: Any, toys: Any, tmp_path: Path, size: int) -> None:
    text = "some words, of a text\n" * 2000
    path = text_file(tmp_path, "a.txt", text)
    found = objects_of(run(path, "--window", size, "--json"))
    assert len(found) == -(-len(text) // size)
    assert sum(each["sum_log_probability"] for each in found) == score_of(toys, text)
    for each in found[:: max(1, len(found) // 10)]:
        first = each["first"]
        assert each["name"] == f"{path}[{first}:{min(first + size, len(text))}]"
        assert each.get("text", text[first : first + size]) == text[first : first + size]
        before = text[max(0, first - 1) : first]
        assert each["sum_log_probability"] == score_of(toys, text[first : first + size], before)


def test_a_long_window_is_shown_as_an_excerpt(run: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.txt", "x\n" * 100)
    assert rows_of(run(path, "--window", "500")) == [f"{path}[0:200]  " + "x\u240a" * 29 + "x…"]


def test_a_model_of_documents_scores_each_line_as_its_own_text(run: Any, peer: Any, tmp_path: Path) -> None:
    peer.models = [model_pb2.Model(name="toy", version=1, documents="lines")]
    path = text_file(tmp_path, "a.txt", "one\r\n\r\ntwo\u2028too\rthree")
    result = run(path, "--text", "two", "--json", "--model", "toy", "--model-version", "1")
    assert result.exit_code == 0, result.output
    asked, *requests = peer.requests
    assert (asked.model.name, asked.model.version) == ("toy", 1)
    assert [text for request in requests for text in request.texts] == ["one\n", "two\u2028too\n", "three\n", "two"]
    assert [each["name"] for each in objects_of(result)] == [f"{path}:{number}" for number in (1, 3, 4)] + ['"two"']


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--ticket-out ticket", "--ticket-out goes with one --text"),
        ("--session s", "--session goes with one --text"),
        ("--running", "leave --running out"),
    ],
)
def test_options_for_one_text_are_refused_if_each_line_is_a_text(
    run: Any, peer: Any, tmp_path: Path, option: str, remedy: str
) -> None:
    peer.models = [model_pb2.Model(name="toy", version=1, documents="lines")]
    result = run(text_file(tmp_path, "a.txt", "one\n"), *option.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert "each line of a file is a text of its own" in result.stderr
    assert remedy in result.stderr
    assert len(peer.requests) == 1


def test_a_model_of_documents_saves_the_state_of_one_text_and_a_page(run: Any, peer: Any, tmp_path: Path) -> None:
    peer.models = [model_pb2.Model(name="toy", version=1, documents="lines")]
    result = run("--text", "abc", "--html", tmp_path / "page.html", "--ticket-out", tmp_path / "ticket")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "ticket").read_bytes()


def test_end_applies_to_both_texts_and_lines(run: Any, peer: Any) -> None:
    assert run("-", "--text", "abc", "--lines", "--end", "line-feed", stdin=b"one\ntwo").exit_code == 0
    assert [(list(request.texts), request.policies.end) for request in peer.requests] == [
        (["one\n", "two\n"], 2),
        (["abc"], 2),
    ]


def test_records_keep_their_order(run: Any, toys: Any, tmp_path: Path) -> None:
    records = [{"text": "x" * (number % 9), "id": number, "deep": {"ü": [1, None]}} for number in range(3000)]
    lines = "\n".join(json.dumps(record) for record in records).replace("\n", "\n\n", 1)
    result = run(text_file(tmp_path, "a.jsonl", lines), "--jsonl")
    assert result.exit_code == 0, result.output
    for record, each in zip(records, objects_of(result), strict=True):
        assert each.pop("score")["sum_log_probability"] == score_of(toys, str(record["text"]))
        assert each == record
    result = run("-", "--jsonl", "--field", "body", "--into", "toy", stdin=b'{"body": "abc", "score": 1}\n')
    [found] = objects_of(result)
    assert (found["body"], found["score"], found["toy"]["scored_count"]) == ("abc", 1, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"', "standard input:3 is not JSON: Expecting ',' delimiter at column 13"),
        (b'["text"]', "standard input:3 is not an object: it begins with '[\"text\"]'"),
        (b'{"body": "a"}', "standard input:3 has no field 'text'; its fields are 'body'; choose one with --field"),
        (b'{"text": 5}', "standard input:3: the field 'text' is not a text but 5"),
        (b'{"text": "a", "score": 5}', "has a field 'score' already; name another one for the score with --into"),
        (b"\xff", "standard input:3 is not UTF-8: byte 0xff at position 30"),
        (b'{"text": "a', "standard input:3 is not JSON: Unterminated string starting at column 10; "),
        (b'{"text": "a\x01"}', "standard input:3 is not JSON: Invalid control character at column 12; "),
        (b"[" * 100_000, "standard input:3 is nested too deeply"),
        (b'{"text": "a", "x": [NaN]}', "standard input:3: NaN is not JSON"),
        (b'{"text": "a", "x": -Infinity}', "standard input:3: -Infinity is not JSON"),
        (b'{"text": [%s]}' % (b"7" * 5000), "standard input:3: the field 'text' is not a text but [Infinity]"),
        (b'{"text": null}', "standard input:3: the field 'text' is not a text but null"),
    ],
)
def test_a_bad_record_is_refused_after_those_before_it(run: Any, line: bytes, message: str) -> None:
    result = run("-", "--jsonl", stdin=b'{"text": "ab"}\n{"text": "cd"}\n' + line)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [each["text"] for each in objects_of(result)] == ["ab", "cd"]


def test_a_lone_surrogate_in_another_field_is_printed_unchanged(run: Any) -> None:
    record = b'{"text": "\xc3\xa9", "x": "\\ud800"}\n'
    result = run("-", "--jsonl", stdin=record)
    assert (result.exit_code, result.stderr) == (0, "")
    [found] = objects_of(result)
    assert (found["text"], found["x"]) == ("é", "\ud800")


@pytest.mark.usefixtures("refusing")
def test_a_refused_line_is_reported_after_those_before_it(run: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "u", "good\nfine\n\nbĀd\nmore\n")
    result = run("--lines", path, "--unknown", "refuse")
    message = f"{path}:4: character 'Ā' at position 1; --bad-rows skip or keep goes on after it"
    assert (result.exit_code, result.stderr) == (2, f"Error: {message}\n")
    assert [row.split()[0] for row in rows_of(result)] == [f"{path}:1", f"{path}:2"]


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("bad", "message"),
    [("bĀd", "character 'Ā' at position 1"), ("b\ud800d", "holds the lone surrogate '\\ud800' at position 1")],
)
def test_a_refused_record_is_reported_after_those_before_it(run: Any, bad: str, message: str) -> None:
    records = "".join(json.dumps({"text": text}) + "\n" for text in ("ab", "cd", bad, "ef"))
    result = run("-", "--jsonl", stdin=records.encode())
    remedy = "--bad-rows skip or keep goes on after it"
    assert (result.exit_code, result.stderr) == (2, f"Error: standard input:3: {message}; {remedy}\n")
    assert [each["text"] for each in objects_of(result)] == ["ab", "cd"]


@pytest.mark.usefixtures("refusing")
def test_a_refused_file_or_text_is_named(run: Any, tmp_path: Path) -> None:
    good, bad = text_file(tmp_path, "good", "ab"), text_file(tmp_path, "bad", "Ā")
    result = run(good, bad)
    assert (result.exit_code, result.stderr) == (2, f"Error: {bad}: character 'Ā' at position 0\n")
    assert rows_of(result) == [str(good)]
    assert run("--text", "ab", "--text", "aĀ").stderr == "Error: \"aĀ\": character 'Ā' at position 1\n"


def test_a_heatmap_shows_the_text_as_it_was_read(run: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.txt", b"\xef\xbb\xbfab\r\nd")
    result = run(path, "--heatmap")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("\x1b[2ma\x1b[0m\x1b[")
    plain = click.unstyle(result.stdout).splitlines()
    assert plain[:3] == ["ab", "d", "surprisal in bits: <1 <2 <4 <7 more"]
    assert plain[-1].endswith(str(path))
    text = "some words, of a text\n" * 2000
    assert click.unstyle(run(text_file(tmp_path, "b.txt", text), "--heatmap").stdout).startswith(text + "surprisal")
    failed = run(path, text_file(tmp_path, "c.txt", b"\xff"), "--heatmap")
    assert failed.exit_code == 2
    assert click.unstyle(failed.stdout).splitlines()[-1].endswith(str(path))


def test_coloured_lines_are_printed_as_rows(run: Any) -> None:
    result = run("-", "--lines", "--heatmap", stdin=b"a\nb\n")
    assert "\x1b[" in result.stdout
    lines = click.unstyle(result.stdout).splitlines()
    assert [line.split()[-1] for line in lines[1:3]] == ["a\u240a", "b\u240a"]
    assert lines[-1].startswith("surprisal in bits")


class Page(HTMLParser):
    """The texts of a page, and what it says of their characters."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.texts: list[str] = []
        self.told: list[str | None] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "section", "pre", "i"}, tag
        if tag == "meta":
            return
        self.open.append(tag)
        if tag in {"h2", "pre"}:
            (self.names if tag == "h2" else self.texts).append("")
        if tag == "i" and "pre" in self.open:
            self.told.append(dict(attrs).get("data-t"))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "pre" in self.open:
            self.texts[-1] += data
        elif "h2" in self.open:
            self.names[-1] += data


def test_a_page_shows_each_character_and_runs_nothing(run: Any, tmp_path: Path) -> None:
    path, html = text_file(tmp_path, "<b>&.txt", EVIL + "abc"), tmp_path / "page.html"
    result = run(path, "--text", "<b>", "--html", html)
    assert result.exit_code == 0, result.output
    page = Page(html.read_text())
    assert page.names == [str(path), '"<b>"']
    expected = (EVIL + "abc").replace("\n", "\u240a\n").replace("\x1b", "\u241b")
    assert page.texts[0].removeprefix("\n") == expected
    assert page.texts[1].removeprefix("\n") == "<b>"
    assert page.told[0] is None
    assert page.told[1]
    assert page.told[1].startswith("i  ")
    assert ", rank 1\ni " in page.told[1]
    assert len(page.told) == len(EVIL + "abc") + 3
    assert all(f">{escaped}</i>" in html.read_text() for escaped in ("&lt;", "&gt;", "&amp;", "&quot;", "&#x27;"))
    assert html.stat().st_mode & 0o777 == 0o644
    assert "http" not in html.read_text()
    assert "prefers-color-scheme: dark" in html.read_text()


def test_a_name_that_is_not_utf_8_is_shown_with_replacements(run: Any, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("abc")
    html = tmp_path / "page.html"
    assert run(path, "--html", html).exit_code == 0
    assert Page(html.read_text()).names == [str(tmp_path / "caf\ufffd.txt")]
    assert rows_of(run(path)) == [str(tmp_path / "caf\ufffd.txt")]
    assert objects_of(run(path, "--json"))[0]["name"] == str(path)


def test_a_page_of_lines(run: Any, peer: Any, tmp_path: Path) -> None:
    path, html = text_file(tmp_path, "a.log", "abc\nzz\n"), tmp_path / "page.html"
    options = ("--html", html, "--sort", "surprising", "--top", "1", "--alternatives", "2")
    assert run(path, "--lines", *options).exit_code == 0
    page = Page(html.read_text())
    assert len(page.names) == len(page.texts) == 1
    assert page.told[0]
    assert page.told[0].count("%") == 2
    peer.models = [model_pb2.Model(name="toy", version=1, alphabet="bytes")]
    assert run("--text", "abc", "--html", html).exit_code == 0
    assert "rank" not in "".join(filter(None, Page(html.read_text()).told))


def test_a_page_is_written_whole_or_not_at_all(run: Any, tmp_path: Path) -> None:
    good, bad = text_file(tmp_path, "a.txt", "abc"), text_file(tmp_path, "b.txt", b"\xff")
    html = text_file(tmp_path, "page.html", "before")
    assert run(good, bad, "--html", html).exit_code == 2
    assert html.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt", "page.html"]


def test_candidates_are_ranked(run: Any, peer: Any, tmp_path: Path) -> None:
    listed = text_file(tmp_path, "list", "were\r\n\nw\n")
    options = ("--candidate", "was", "--candidates", listed, "--ranking", "mean", "--ticket-out", tmp_path / "ticket")
    result = run("--context", "the cats ", *options)
    assert result.exit_code == 0, result.output
    [request] = peer.requests
    assert (request.context, list(request.candidates)) == ("the cats ", ["was", "were", "w"])
    heading, *rows = result.stdout.splitlines()
    assert heading.split() == ["probability", "bits", "bits/char", "candidate"]
    means = [float(row.split()[2]) for row in rows]
    assert means == sorted(means)
    assert (tmp_path / "ticket").read_bytes() == b"10: "
    found = objects_of(run("--context", "", "--candidate", "was", "--candidate", "b", "--json", "--per-character"))
    assert {each["candidate"] for each in found} == {"was", "b"}
    assert all(sum(each["log_probabilities"]) == each["sum_log_probability"] for each in found)


def test_ticket_out_is_limited_to_as_many_candidates_as_can_return_tickets(run: Any, peer: Any, tmp_path: Path) -> None:
    listed = text_file(tmp_path, "list", "".join(f"{number}\n" for number in range(257)))
    options = ("--context", "abc", "--candidates", listed)
    result = run(*options, "--ticket-out", tmp_path / "ticket")
    assert result.exit_code == 2
    assert "up to 256 candidates, here are 257" in result.stderr
    assert peer.requests == []
    assert run(*options).exit_code == 0
    assert run("--text", "abc", "--begin", "begin", "--ticket-out", tmp_path / "ticket").exit_code == 0
    assert (tmp_path / "ticket").read_bytes() == b"4:c"


def process(peer: Any, *arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "segue_client", "score", *map(str, arguments), "--server", peer.address]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("arguments", [["--lines"], ["--lines", "--carry"], ["--jsonl"], ["--running"]])
def test_piped_input_is_scored_at_once(peer: Any, arguments: list[str]) -> None:
    with process(peer, "-", *arguments) as score:
        assert score.stdin
        assert score.stdout
        has_heading = "--jsonl" not in arguments
        for _ in range(3):
            score.stdin.write(b'{"text": "abc"}\n')
            score.stdin.flush()
            if has_heading:
                assert b"bits/char" in score.stdout.readline()
                has_heading = False
            assert b"abc" in score.stdout.readline() or "--running" in arguments
        score.stdin.close()
        score.stdout.read()
        assert score.wait(20) == 0


@pytest.mark.usefixtures("toy")
def test_a_closed_pipe_ends_it_quietly(peer: Any, tmp_path: Path) -> None:
    with process(peer, text_file(tmp_path, "a.log", "some words\n" * 50_000), "--lines") as score:
        assert score.stdout
        assert score.stderr
        assert score.stdout.readline()
        score.stdout.close()
        assert score.wait(30) == 141
        assert score.stderr.read() == b""


@pytest.mark.usefixtures("toy")
def test_a_closed_pipe_ends_a_heatmap_quietly(peer: Any, tmp_path: Path) -> None:
    with process(peer, text_file(tmp_path, "a.txt", "some words\n" * 50_000), "--heatmap") as score:
        assert score.stdout
        assert score.stderr
        assert score.stdout.read(10)
        score.stdout.close()
        assert score.wait(30) == 141
        assert score.stderr.read() == b""


def test_an_interrupt_ends_a_long_input_quietly(peer: Any, toy: Any) -> None:
    with process(peer, "-") as score:
        assert score.stdin
        assert score.stderr
        score.stdin.write(b"some words\n" * 5000)
        score.stdin.flush()
        while not toy.pieces or not toy.pieces[0]:
            time.sleep(0.01)
        score.send_signal(signal.SIGINT)
        assert score.wait(20) == 130
        assert score.stderr.read() == b""
    assert toy.over.wait(20)


def test_an_interrupt_ends_it_quietly(peer: Any, toy: Any) -> None:
    with process(peer, "-", "--running") as score:
        assert score.stdin
        assert score.stdout
        assert score.stderr
        score.stdin.write(b"some words\n")
        score.stdin.flush()
        assert score.stdout.readline()
        assert score.stdout.readline()
        score.send_signal(signal.SIGINT)
        assert score.wait(20) == 130
        assert score.stderr.read() == b""
    assert toy.over.wait(20)


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("term", "has_legend"), [("dumb", False), ("xterm", True), ("xterm-256color", True)])
def test_a_legend_explains_what_there_is(peer: Any, tmp_path: Path, *, term: str, has_legend: bool) -> None:
    path = text_file(tmp_path, "a.txt", "abc\n")
    command = [sys.executable, "-m", "segue_client", "score", str(path), "--server", peer.address, "--heatmap"]
    environment = {**os.environ, "TERM": term, "COLORTERM": ""}
    shown = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=30).stdout
    assert (b"surprisal in bits" in shown) == has_legend
    assert (b"\x1b[" in shown) == has_legend


@pytest.mark.usefixtures("toy")
def test_a_terminal_sees_a_bar_and_colours(peer: Any, tmp_path: Path) -> None:
    path = text_file(tmp_path, "a.txt", "abc\n")
    master, terminal = os.openpty()
    command = [sys.executable, "-m", "segue_client", "score", str(path), "--server", peer.address, "--progress"]
    subprocess.run(command, stdout=terminal, stderr=terminal, check=True, timeout=30)
    os.close(terminal)
    seen = b""
    while chunk := _read(master):
        seen += chunk
    os.close(master)
    assert b"\x1b[2ma\x1b[0m" in seen
    assert b"surprisal in bits" in seen
    assert b"read" in seen


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65_536)
    except OSError:  # the other side is closed
        return b""


@pytest.mark.parametrize(("code", "status"), [(grpc.StatusCode.INVALID_ARGUMENT, 2), (grpc.StatusCode.INTERNAL, 1)])
@pytest.mark.parametrize("arguments", [["--lines"], ["--running"], ["--context", "a", "--candidate", "b"]])
def test_a_refusal_is_one_line(
    run: Any, peer: Any, tmp_path: Path, *, code: grpc.StatusCode, status: int, arguments: list[str]
) -> None:
    path = [] if "--context" in arguments else [text_file(tmp_path, "a.txt", "abc")]
    peer.fail(code, "begin is 7; choose another")
    result = run(*path, *arguments)
    assert (result.exit_code, result.stdout) == (status, "")
    [line] = result.stderr.splitlines()
    assert line.endswith("begin is 7; choose another")


def test_from_end_to_end_on_a_real_server(server: Any, tmp_path: Path) -> None:
    def score(*arguments: object, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        command = [sys.executable, "-m", "segue_client", "score", *map(str, arguments), "--server", server.address]
        return subprocess.run(command, input=stdin, capture_output=True, timeout=120, check=False)

    text = "The cat ate.\nThe cats were full.\nzqxj!\n" * 300
    path = text_file(tmp_path, "a.log", text)
    ended = score(path, "--json", "--ticket-out", tmp_path / "ticket")
    assert (ended.returncode, ended.stderr) == (0, b"")
    with Client(server.address) as client:
        whole = client.score(text, return_ticket=True)
        after = client.score("More.", ticket=(tmp_path / "ticket").read_bytes())
        assert after.sum_log_probability == client.score("More.", ticket=whole.ticket).sum_log_probability
    assert json.loads(ended.stdout)["sum_log_probability"] == whole.sum_log_probability
    ended = score("-", "--lines", "--carry", "--json", stdin=text.encode())
    windows = [json.loads(line)["sum_log_probability"] for line in ended.stdout.splitlines()]
    assert (math.fsum(windows), len(windows)) == (whole.sum_log_probability, 900)
    ended = score(path, "--lines", "--sort", "surprising", "--top", "1", "--threshold", "0.5")
    assert (ended.returncode, len(ended.stdout.splitlines())) == (3, 2)
    records = "".join(json.dumps({"id": number, "text": text[number:300]}) + "\n" for number in range(300))
    ended = score("-", "--jsonl", stdin=records.encode())
    assert [json.loads(line)["id"] for line in ended.stdout.splitlines()] == list(range(300))
    assert score(path, "--html", tmp_path / "page.html").returncode == 0
    page = Page((tmp_path / "page.html").read_text())
    assert page.texts[0].removeprefix("\n") == text.replace("\n", "\u240a\n")
    ended = score("--context", "The cats ", "--candidate", "was", "--candidate", "were", "--json")
    assert {json.loads(line)["candidate"] for line in ended.stdout.splitlines()} == {"was", "were"}
    ended = score("-", "--unknown", "refuse", stdin=b"The \xe2\x82\xac")
    assert ended.returncode == 2
    assert "position 4" in ended.stderr.decode()
    refused = text_file(tmp_path, "u", "The\ncat\na\u20acte\nwere\n")
    ended = score("--lines", refused, "--unknown", "refuse")
    assert (ended.returncode, len(ended.stdout.splitlines())) == (2, 3)
    assert ended.stderr.decode().startswith(f"Error: {refused}:3: character '\u20ac' at position 1 is not in")
