"""`segue sessions` against a real server."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from segue_client.commands.main import segue


@pytest.fixture
def run(server_address: str) -> Any:
    def invoke(*arguments: str) -> Result:
        environment = {"SEGUE_SERVER": server_address, "SEGUE_TENANT": "command"}
        return CliRunner().invoke(segue, arguments, env=environment, prog_name="segue")

    return invoke


def fields(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_session_from_its_beginning_to_its_end(run: Any, tmp_path: Path) -> None:
    [opened] = fields(run("sessions", "open", "story", "--seed", "5", "--rewind-characters", "50", "--json"))
    assert (opened["name"], opened["model"], opened["position"], opened["seed"]) == ("story", "tiny", 0, 5)
    text = run("generate", "The ", "--session", "story", "--max-characters", "40").stdout
    [shown] = fields(run("sessions", "show", "story", "--json"))
    assert (shown["position"], shown["seed"]) == (44, 5)
    forks = fields(run("sessions", "fork", "story", "story.a", "story.b", "--json"))
    assert [(fork["name"], fork["position"]) for fork in forks] == [("story.a", 44), ("story.b", 44)]
    [rewound] = fields(run("sessions", "rewind", "story", "10", "--json"))
    assert rewound["position"] == 34
    assert run("generate", "--session", "story", "--max-characters", "10").stdout == text[-10:]
    [again] = fields(run("sessions", "rewind", "story", "10", "--seed", "6", "--json"))
    assert again["seed"] == 6
    listed = fields(run("sessions", "list", "--json"))
    assert [session["name"] for session in listed] == ["story", "story.a", "story.b"]
    table = run("sessions", "list").stdout.splitlines()
    assert [line.split()[:3] for line in table[1:]] == [
        ["story", "tiny/1", "34"],
        ["story.a", "tiny/1", "44"],
        ["story.b", "tiny/1", "44"],
    ]
    path = tmp_path / "ticket"
    closed = run("sessions", "close", "story", "--ticket-out", str(path))
    assert (closed.exit_code, closed.stdout, closed.stderr) == (0, "", "closed: story\n")
    assert fields(run("generate", "--ticket-in", str(path), "--max-characters", "1", "--json"))[0]["position"] == 35
    for name in ("story.a", "story.b"):
        assert fields(run("sessions", "close", name, "--json")) == [{"closed": name}]
    assert fields(run("sessions", "list", "--json")) == []


def test_a_session_starts_from_a_ticket(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "ticket"
    assert run("generate", "The ", "--ticket-out", str(path), "--max-characters", "6").exit_code == 0
    [opened] = fields(run("sessions", "open", "--ticket-in", str(path), "--json"))
    assert opened["position"] == 10
    assert run("sessions", "close", opened["name"]).exit_code == 0


def test_a_session_that_has_read_nothing_has_no_state_to_keep(run: Any, tmp_path: Path) -> None:
    [opened] = fields(run("sessions", "open", "--json"))
    path = tmp_path / "ticket"
    closed = run("sessions", "close", opened["name"], "--ticket-out", str(path))
    assert closed.exit_code == 0
    assert f"there is no state for {path} to keep" in closed.stderr
    assert not path.exists()


def test_refusals_are_one_line(run: Any, tmp_path: Path) -> None:
    for arguments, status, message in (
        (("show", "absent"), 2, "there is no session 'absent'"),
        (("open", "no spaces"), 2, "must be 1 to 64 of"),
        (("close", "absent", "--ticket-out", str(tmp_path / "absent" / "t")), 2, "there is no folder"),
        (("fork", "absent"), 2, "Missing argument"),
        (("rewind", "absent", "0"), 2, "0"),
    ):
        result = run("sessions", *arguments)
        assert result.exit_code == status, result.output
        assert message in result.stderr
    [opened] = fields(run("sessions", "open", "--json"))
    result = run("sessions", "rewind", opened["name"], "5")
    assert result.exit_code == 2
    assert "can go back by at most 0 characters" in result.stderr
    assert run("sessions", "close", opened["name"]).exit_code == 0
