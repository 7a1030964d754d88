"""The options that the client's commands share."""

import re
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from segue_client.commands.flags import in_flags
from segue_client.commands.main import segue


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(segue, arguments, env=environment, prog_name="segue")


COMMANDS = [["models"], ["generate"], ["score", "--text", "abc"], ["sessions", "list"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("127.0.0.1", "has no port; write 127.0.0.1:50051"),
        ("http://127.0.0.1:50051", "is a URL; write 127.0.0.1:50051"),
        ("127.0.0.1:5,", "name one, such as 127.0.0.1:50051"),
        ("127.0.0.1:70000", "choose 1 to 65,535"),
    ],
)
def test_an_address_that_cannot_be_one_names_option_value_and_remedy(
    command: list[str], value: str, message: str
) -> None:
    result = run(*command, "--server", value)
    assert result.exit_code == 2
    assert "'--server'" in result.output
    assert message in result.output
    assert repr(value.rpartition(",")[2]) in result.output


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_time_limit_is_above_0(peer: Any, value: str) -> None:
    result = run("models", "--server", peer.address, "--timeout", value)
    assert result.exit_code == 2
    assert f"'--timeout': {value} is no time limit" in result.output


@pytest.mark.parametrize("value", ["inf", "1e12", "30"])
def test_it_may_be_as_long_as_one_likes(peer: Any, value: str) -> None:
    assert run("models", "--server", peer.address, "--timeout", value).exit_code == 0


@pytest.mark.parametrize("command", [["generate"], ["score", "--text", "abc"]], ids=lambda command: command[0])
def test_the_model_may_come_from_the_environment(peer: Any, command: list[str]) -> None:
    assert run(*command, "--server", peer.address, SEGUE_MODEL="toy").exit_code == 0
    assert peer.requests[-1].model.name == "toy"
    assert run(*command, "--server", peer.address, "--model", "other", SEGUE_MODEL="toy").exit_code == 0
    assert peer.requests[-1].model.name == "other"
    assert "SEGUE_MODEL" in run(command[0], "--help").output


def test_who_waits_for_a_lost_server_is_told_for_what(peer: Any, script: Any) -> None:
    def speak(_request: Any) -> Any:
        if len(peer.requests) == 2:
            raise script.broken(grpc.StatusCode.UNAVAILABLE, "gone")
        yield script.started()
        if len(peer.requests) > 2:
            yield script.text("abcd")
            yield script.finished(generated_count=4)
        else:
            yield script.text("ab")
            raise script.broken(grpc.StatusCode.UNAVAILABLE, "broken")

    peer.generate = speak
    result = run("generate", "--server", peer.address)
    assert (result.exit_code, result.stdout.strip()) == (0, "abcd")
    [told] = [line for line in result.stderr.splitlines() if "trying again" in line]
    assert re.search(rf"no server takes the call: {peer.address} \(broken\); trying again for up to 30 s", told)


def test_expiry_has_a_date_and_a_zone(server_address: str) -> None:
    environment = {"SEGUE_SERVER": server_address, "SEGUE_TENANT": "zones"}
    opened = run("sessions", "open", "zoned", **environment)
    assert re.search(r" \d{4}-\d\d-\d\d \d\d:\d\d [A-Z+-][A-Z\d:]+$", opened.stdout.splitlines()[1])
    assert run("sessions", "close", "zoned", **environment).exit_code == 0


def test_rewinding_too_far_names_the_option_that_would_have_helped(server_address: str) -> None:
    environment = {"SEGUE_SERVER": server_address, "SEGUE_TENANT": "rewinding"}
    assert run("sessions", "open", "fixed", **environment).exit_code == 0
    refused = run("sessions", "rewind", "fixed", "5", **environment)
    assert "at most 0 characters" in refused.stderr
    assert "--rewind-characters" in refused.stderr
    assert run("sessions", "close", "fixed", **environment).exit_code == 0
    assert run("sessions", "open", "fixed", "--rewind-characters", "5", **environment).exit_code == 0
    assert run("generate", "The way", "--session", "fixed", "--max-characters", "9", **environment).exit_code == 0
    assert run("sessions", "rewind", "fixed", "5", **environment).exit_code == 0
    assert run("sessions", "close", "fixed", **environment).exit_code == 0


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "those before by 3f: choose one with version, or accept both with exact=False",
            "those before by 3f: choose one with --model-version, or accept both with --inexact",
        ),
        ("to resume anyway, choose exact=False", "to resume anyway, use --inexact"),
    ],
)
def test_what_exact_refuses_is_told_in_options(message: str, words: str) -> None:
    assert in_flags(message) == words
