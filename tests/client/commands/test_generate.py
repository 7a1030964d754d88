"""`segue generate` and `models` against a scripted peer."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from segue.v1 import alternatives_pb2, generation_pb2
from segue_client.commands.main import segue


@pytest.fixture
def run(peer: Any) -> Any:
    def invoke(*arguments: str, stdin: bytes = b"") -> Result:
        environment = {"SEGUE_SERVER": peer.address}
        return CliRunner().invoke(segue, arguments, input=stdin, env=environment, prog_name="segue")

    return invoke


def process(peer: Any, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "segue_client", *arguments, "--server", peer.address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_a_pipe_gets_prompt_and_text_alone(run: Any) -> None:
    result = run("generate", "Say: ")
    assert (result.exit_code, result.stdout) == (0, "Say: Hello")
    assert result.stderr.startswith("toy/1: 5 characters, ")
    assert result.stderr.endswith("/s, length, seed 7\n")


def test_options_reach_the_server(peer: Any, run: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"before")
    options = "--model toy --model-version 2 --temperature 0.5 --top-k 3 --top-p 0.9 --seed 4"
    more = f"--max-characters 8 --unknown refuse --ticket-in {tmp_path / 'in'} --min-p 0.25"
    rules = (
        "--stop",
        r"\n\\n",
        "--allow",
        r"ab\n",
        "--forbid",
        "b",
        "--bias",
        "e=-2.5",
        "--bias",
        r"\n=1",
        "--bias",
        "==3",
    )
    result = run("generate", "-", *options.split(), *more.split(), *rules, stdin=b"A\nB")
    assert result.exit_code == 0, result.output
    [request] = peer.requests
    assert (request.prompt, request.start.ticket, list(request.stop)) == ("A\nB", b"before", ["\n\\n"])
    assert (request.model.name, request.model.version) == ("toy", 2)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 3, 0.9, 4)
    assert sampling.min_p == 0.25
    assert {each.character: each.bias for each in sampling.biases} == {"e": -2.5, "\n": 1.0, "=": 3.0}
    assert (sampling.allowed_characters, sampling.forbidden_characters) == ("ab\n", "b")
    assert (request.max_characters, request.unknown_policy) == (8, 2)
    assert not request.return_ticket
    assert (request.samples, request.top_alternatives, request.log_probabilities) == (1, 0, False)
    assert not request.start.HasField("exact")


def test_a_ticket_is_continued_as_it_was_being_written(peer: Any, run: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"before")
    assert run("generate", "--ticket-in", str(tmp_path / "in"), "--inexact").exit_code == 0
    [request] = peer.requests
    assert (request.start.ticket, request.start.exact, request.start.HasField("exact")) == (b"before", False, True)
    assert not [name for name in ("temperature", "top_k", "top_p", "min_p", "seed") if request.sampling.HasField(name)]


def test_a_session_is_named(peer: Any, run: Any, tmp_path: Path) -> None:
    assert run("generate", "--session", "mine", "--tenant", "me").exit_code == 0
    [request] = peer.requests
    assert request.start.session.name == "mine"
    assert peer.metadata[0]["segue-tenant"] == "me"
    (tmp_path / "in").write_bytes(b"before")
    result = run("generate", "--session", "mine", "--ticket-in", str(tmp_path / "in"))
    assert result.exit_code == 2
    assert "--ticket-in and --session are both given" in result.stderr


def test_several_addresses_are_tried_in_turn(peer: Any, run: Any, free_port: int) -> None:
    result = run("generate", "Say: ", "--server", f"127.0.0.1:{free_port},{peer.address}")
    assert (result.exit_code, result.stdout) == (0, "Say: Hello")


@pytest.mark.parametrize("bias", ["e", "e=", "e=x", "=", "e1"])
def test_a_bias_is_a_character_and_a_number(peer: Any, run: Any, bias: str) -> None:
    result = run("generate", "--bias", bias)
    assert result.exit_code == 2
    assert f"{bias!r} is not a character, = and a number" in result.stderr
    assert peer.requests == []


def test_a_character_has_one_bias(run: Any) -> None:
    result = run("generate", "--bias", r"\n=1", "--bias", "\n=2")
    assert result.exit_code == 2
    assert r"'\n' is given twice" in result.stderr


def _two_samples(script: Any) -> Any:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started(seed=2**64 - 1)
        yield script.text("wo", sample=1)
        yield script.text("one", sample=0)
        yield script.finished(sample=1, generated_count=2, reason=generation_pb2.FINISH_REASON_STOP, stop="o")
        yield script.finished(sample=0, generated_count=3)

    return speak


def test_samples_stand_whole_below_headings(peer: Any, run: Any, script: Any) -> None:
    peer.generate = _two_samples(script)
    result = run("generate", "t", "--samples", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "--- sample 1 of 2, seed 18446744073709551615, length ---",
        "tone",
        "--- sample 2 of 2, seed 0, stop ---",
        "two",
    ]
    assert result.stderr.startswith("toy/1: 2 samples, 5 characters, ")
    assert result.stderr.endswith("/s, seeds 18446744073709551615 to 0\n")
    assert peer.requests[0].samples == 2


def test_a_sample_is_shown_as_soon_as_it_has_ended(peer: Any, script: Any) -> None:
    """Though another one goes on."""

    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        yield script.text("one", sample=0)
        yield script.finished(sample=0, generated_count=3)
        yield script.text("two", sample=1)
        peer.left.wait(20)

    peer.generate = speak
    with process(peer, "generate", "--samples", "2") as segue_generate:
        assert segue_generate.stdout
        assert segue_generate.stdout.readline().startswith(b"--- sample 1 of 2")
        assert segue_generate.stdout.readline() == b"one\n"
        segue_generate.send_signal(signal.SIGINT)
        segue_generate.communicate(timeout=10)
        assert segue_generate.returncode == 130


def test_samples_as_json_are_one_object(peer: Any, run: Any, script: Any) -> None:
    peer.generate = _two_samples(script)
    fields = json.loads(run("generate", "t", "--samples", "2", "--json").stdout)
    assert fields.pop("seconds") > 0
    assert fields == {
        "prompt": "t",
        "model": "toy",
        "version": 1,
        "seed": 2**64 - 1,
        "unknown_count": 0,
        "exact": True,
        "cached_count": 0,
        "resumed_count": 0,
        "samples": [
            {"seed": 2**64 - 1, "text": "one", "reason": "length", "stop": "", "generated_count": 3, "position": 0},
            {"seed": 0, "text": "wo", "reason": "stop", "stop": "o", "generated_count": 2, "position": 0},
        ],
    }


def test_several_samples_have_no_one_ticket(peer: Any, run: Any, tmp_path: Path) -> None:
    result = run("generate", "--samples", "2", "--ticket-out", str(tmp_path / "ticket"))
    assert result.exit_code == 2
    assert "--ticket-out keeps one state" in result.stderr
    assert peer.requests == []


def test_samples_that_a_stopping_server_left_unfinished_are_a_failure(peer: Any, run: Any, script: Any) -> None:
    drained = {"reason": generation_pb2.FINISH_REASON_DRAINED, "ticket": b"sealed"}
    peer.generate = lambda _request: iter(
        [script.started(), script.text("Hel"), script.finished(**drained), script.finished(sample=1)]
    )
    result = run("generate", "--samples", "2", "--no-resume")
    assert result.exit_code == 1
    assert "Hel\n" in result.stdout
    assert result.stderr.splitlines()[-1] == (
        "Error: the server stopped before the end of 1 of 2 texts; repeat all of them with --seed 7"
    )


def _with_alternatives(script: Any) -> Any:
    places = [
        alternatives_pb2.Alternatives(characters="ae", log_probabilities=[-0.5, -1.5]),
        alternatives_pb2.Alternatives(characters=" \n", log_probabilities=[-0.25, -2.5]),
    ]
    chunk = script.text("e ", log_probabilities=[-1.5, -0.25], alternatives=places)
    return lambda _request: iter([script.started(), chunk, script.finished(generated_count=2)])


def test_alternatives_are_shown_below_the_text(peer: Any, run: Any, script: Any) -> None:
    peer.generate = _with_alternatives(script)
    result = run("generate", "Th", "--alternatives", "2")
    assert result.exit_code == 0, result.output
    text, heading, *rows = result.stdout.splitlines()
    assert (text, heading.split()) == ("The ", ["character", "probability", "likeliest"])
    assert [row.split() for row in rows] == [
        ["e", "22.3%", "a", "60.7%", "e", "22.3%"],
        ["\u2423", "77.9%", "\u2423", "77.9%", "\u240a", "8.2%"],
    ]
    [request] = peer.requests
    assert (request.top_alternatives, request.log_probabilities) == (2, True)


def test_alternatives_as_json(peer: Any, run: Any, script: Any) -> None:
    peer.generate = _with_alternatives(script)
    fields = json.loads(run("generate", "Th", "--alternatives", "2", "--json").stdout)
    assert fields["log_probabilities"] == [-1.5, -0.25]
    assert fields["alternatives"] == [
        [{"character": "a", "log_probability": -0.5}, {"character": "e", "log_probability": -1.5}],
        [{"character": " ", "log_probability": -0.25}, {"character": "\n", "log_probability": -2.5}],
    ]


def test_generate_as_json(run: Any) -> None:
    fields = json.loads(run("generate", "Say: ", "--json").stdout)
    assert fields.pop("seconds") > 0
    assert (fields.pop("exact"), fields.pop("cached_count"), fields.pop("resumed_count")) == (True, 0, 0)
    assert fields.pop("position") == 0
    assert fields == {
        "prompt": "Say: ",
        "text": "Hello",
        "model": "toy",
        "version": 1,
        "seed": 7,
        "unknown_count": 0,
        "reason": "length",
        "stop": "",
        "generated_count": 5,
    }


def test_a_ticket_is_kept(peer: Any, run: Any, script: Any, tmp_path: Path) -> None:
    peer.generate = lambda _request: iter([script.started(), script.finished(ticket=b"sealed")])
    assert run("generate", "--ticket-out", str(tmp_path / "ticket")).exit_code == 0
    assert (tmp_path / "ticket").read_bytes() == b"sealed"
    assert peer.requests[0].return_ticket


def test_a_ticket_without_a_folder_is_refused_before_the_work(peer: Any, run: Any, tmp_path: Path) -> None:
    result = run("generate", "--ticket-out", str(tmp_path / "absent" / "ticket"))
    assert result.exit_code == 2
    assert "no folder" in result.stderr
    assert peer.requests == []


def test_a_stopping_server_is_a_failure_that_can_be_continued(peer: Any, run: Any, script: Any, tmp_path: Path) -> None:
    peer.generate = lambda _request: iter(
        [
            script.started(),
            script.text("Hel"),
            script.finished(reason=generation_pb2.FINISH_REASON_DRAINED, ticket=b"sealed", generated_count=3),
        ]
    )
    path = tmp_path / "ticket"
    result = run("generate", "--no-resume", "--ticket-out", str(path))
    assert (result.exit_code, result.stdout) == (1, "Hel")
    assert (
        result.stderr.splitlines()[-1]
        == f"Error: the server stopped after 3 characters; continue with --ticket-in {path}"
    )
    assert path.read_bytes() == b"sealed"


@pytest.mark.parametrize(("code", "status"), [(grpc.StatusCode.INVALID_ARGUMENT, 2), (grpc.StatusCode.INTERNAL, 1)])
def test_a_refusal_is_one_line(peer: Any, run: Any, code: grpc.StatusCode, status: int) -> None:
    peer.generate = lambda _request: iter(())
    peer.fail(code, "temperature is nan; choose 0 to 100")
    result = run("generate", "--temperature", "nan")
    assert (result.exit_code, result.stdout) == (status, "")
    [line] = result.stderr.splitlines()
    assert line.endswith("temperature is nan; choose 0 to 100")


@pytest.mark.parametrize("tickets", [False, True])
def test_a_text_that_another_kind_of_host_went_on_with_is_not_exact(
    peer: Any, run: Any, script: Any, *, tickets: bool
) -> None:
    def speak(request: Any) -> Iterator[Any]:
        is_first = len(peer.requests) % 2 == 1
        host = {"sha256": "ab", "host_class": "one" if is_first else "other"}
        yield script.started(continuation={"exact": is_first or not tickets, **host})
        if is_first:
            yield script.text("Hel", ticket=b"three" if tickets else b"")
            raise script.broken(grpc.StatusCode.UNAVAILABLE)
        yield script.text("lo" if request.start.ticket else "Hello")
        yield script.finished(generated_count=5)

    peer.generate = speak
    result = run("generate", "--inexact")
    assert (result.exit_code, result.stdout) == (0, "Hello")
    assert result.stderr.endswith(", resumed once, not exact\n")
    assert json.loads(run("generate", "--inexact", "--json").stdout)["exact"] is False


def test_a_text_that_outlived_its_server_is_told_from_others(peer: Any, run: Any, script: Any) -> None:
    calls = iter([script.broken(grpc.StatusCode.UNAVAILABLE), None])

    def speak(_request: Any) -> Iterator[Any]:
        yield script.started(continuation={"exact": False})
        yield script.text("Hel")
        if broken := next(calls):
            raise broken
        yield script.finished(generated_count=3)

    peer.generate = speak
    result = run("generate")
    assert (result.exit_code, result.stdout) == (0, "Hel")
    assert result.stderr.endswith(", resumed once, not exact\n")


def test_tickets_on_the_way_are_kept(peer: Any, run: Any, script: Any, tmp_path: Path) -> None:
    path, kept = tmp_path / "ticket", []

    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        for number in range(3):
            yield script.text("abc", ticket=b"%d" % number)
        yield script.finished(ticket=b"last")

    peer.generate = speak
    from segue_client.commands import atomic_file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic_file, "write_ticket", lambda to, ticket: kept.append((to, ticket)))
        assert run("generate", "--ticket-out", str(path), "--ticket-interval", "3").exit_code == 0
    assert kept == [(path, ticket) for ticket in (b"0", b"1", b"2", b"last")]
    assert peer.requests[0].ticket_interval == 3


def test_a_ticket_interval_needs_a_file(peer: Any, run: Any) -> None:
    result = run("generate", "--ticket-interval", "3")
    assert result.exit_code == 2
    assert "--ticket-out" in result.stderr
    assert peer.requests == []


def test_what_a_lost_server_leaves_is_kept_with_what_it_lacks(peer: Any, run: Any, script: Any, tmp_path: Path) -> None:
    def speak(_request: Any) -> Iterator[Any]:
        if len(peer.requests) == 1:
            yield script.started()
            yield script.text("abc", ticket=b"three")
            yield script.text("d\n")
        raise script.broken(grpc.StatusCode.UNAVAILABLE)

    peer.generate = speak
    path = tmp_path / "ticket"
    result = run("generate", "--no-resume", "--ticket-out", str(path), "--ticket-interval", "3")
    assert (result.exit_code, result.stdout) == (1, "abcd\n")
    told, error = result.stderr.strip().splitlines()
    assert told == rf"after 5 characters; {path} keeps the state after 3 of them, before the last 2: 'd\n'"
    assert error.startswith("Error: the text broke off after 5 characters: no server is available")
    assert path.read_bytes() == b"three"


def test_without_any_ticket_nothing_is_kept(peer: Any, run: Any, script: Any, tmp_path: Path) -> None:
    def speak(_request: Any) -> Iterator[Any]:
        if len(peer.requests) == 1:
            yield script.started()
            yield script.text("abc")
        raise script.broken(grpc.StatusCode.UNAVAILABLE)

    peer.generate = speak
    result = run("generate", "--no-resume", "--ticket-out", str(tmp_path / "ticket"))
    assert result.exit_code == 1
    assert "after 3 characters; no ticket has arrived" in result.stderr
    assert not (tmp_path / "ticket").exists()


def test_an_interrupt_keeps_the_state_after_what_was_written(peer: Any, script: Any, tmp_path: Path) -> None:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        yield script.text("one line\n")
        if len(peer.requests) == 1:
            peer.left.wait(20)
        yield script.finished(generated_count=9, ticket=b"nine")

    peer.generate = speak
    path = tmp_path / "ticket"
    with process(peer, "generate", "--ticket-out", str(path)) as segue_generate:
        assert segue_generate.stdout
        assert segue_generate.stdout.readline() == b"one line\n"
        segue_generate.send_signal(signal.SIGINT)
        _, errors = segue_generate.communicate(timeout=20)
        assert segue_generate.returncode == 130
    assert errors.decode() == f"\nafter 9 characters; continue with --ticket-in {path}\n"
    assert path.read_bytes() == b"nine"
    assert peer.requests[1].max_characters == 9


def _endless(script: Any) -> Any:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        while True:
            yield script.text("one line\n" * 100)

    return speak


def test_a_reader_that_leaves_ends_it_quietly(peer: Any, script: Any) -> None:
    peer.generate = _endless(script)
    with process(peer, "generate") as segue_generate:
        assert segue_generate.stdout
        assert segue_generate.stderr
        assert segue_generate.stdout.readline() == b"one line\n"
        segue_generate.stdout.close()
        assert segue_generate.wait(10) == 141
        assert segue_generate.stderr.read() == b""
    assert peer.left.wait(5)


def test_an_interrupt_ends_it_quietly(peer: Any, script: Any) -> None:
    def speak(_request: Any) -> Iterator[Any]:
        yield script.started()
        yield script.text("one line\n")
        peer.left.wait(20)

    peer.generate = speak
    with process(peer, "generate") as segue_generate:
        assert segue_generate.stdout
        assert segue_generate.stdout.readline() == b"one line\n"
        segue_generate.send_signal(signal.SIGINT)
        assert segue_generate.communicate(timeout=10) == (b"", b"")
        assert segue_generate.returncode == 130
    assert peer.left.wait(5)


def test_a_terminal_gets_colour_and_no_control_characters(peer: Any, script: Any) -> None:
    peer.generate = lambda _request: iter([script.started(), script.text("a\x1bb"), script.finished()])
    master, terminal = os.openpty()
    command = [sys.executable, "-m", "segue_client", "generate", "Hi", "--server", peer.address]
    subprocess.run(command, stdout=terminal, stderr=subprocess.DEVNULL, check=True, timeout=30)
    os.close(terminal)
    assert os.read(master, 1000).decode() == "\x1b[2mHi\x1b[0ma\u241bb\r\n"
    os.close(master)


def test_a_document_ends_with_its_own_line_feed(peer: Any, run: Any, script: Any) -> None:
    ended = script.finished(reason=generation_pb2.FINISH_REASON_END, generated_count=2)
    peer.generate = lambda _request: iter([script.started(), script.text("a\n"), ended])
    result = run("generate")
    assert (result.exit_code, result.stdout) == (0, "a\n")
    assert ", end, seed" in result.stderr
    master, terminal = os.openpty()
    command = [sys.executable, "-m", "segue_client", "generate", "--server", peer.address]
    subprocess.run(command, stdout=terminal, stderr=subprocess.DEVNULL, check=True, timeout=30)
    os.close(terminal)
    assert os.read(master, 1000).decode().endswith("a\r\n")
    os.close(master)


def test_a_text_that_breaks_off_ends_its_line_on_a_terminal(peer: Any, script: Any) -> None:
    def break_off(_request: Any) -> Any:
        yield script.started()
        yield script.text("abc")
        peer.abort(grpc.StatusCode.INTERNAL, "no")

    peer.generate = break_off
    master, terminal = os.openpty()
    command = [sys.executable, "-m", "segue_client", "generate", "Hi", "--server", peer.address]
    done = subprocess.run(command, stdout=terminal, stderr=terminal, check=False, timeout=30)
    os.close(terminal)
    assert done.returncode == 1
    assert os.read(master, 1000).decode().startswith("\x1b[2mHi\x1b[0mabc\r\nError: ")
    os.close(master)


def test_models_as_a_table_and_as_json(run: Any) -> None:
    assert run("models").stdout.splitlines()[1].split()[0] == "toy/3"
    [model] = map(json.loads, run("models", "--json").stdout.splitlines())
    assert (model["name"], model["vocabulary"], model["reproducible"]) == ("toy", ["<unk>", "a", "\n"], True)
