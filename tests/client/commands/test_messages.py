"""What the commands say of bad input: they name the option, the value and a remedy, and the remedy works."""

import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from segue_client import Client, InvalidRequest
from segue_client.commands.main import segue
from segue_export.export import export_checkpoint
from segue_training.train.checkpoint import save_checkpoint

Case = tuple[str, str, str]
"""A command line, the message that it ends with, and a command line that the message advises; "" if it has none."""

NO_SESSION = (
    "there is no session 'no': it was never opened, was closed, or has expired; see which there are with: segue "
    "sessions list"
)

GENERATE: list[Case] = [
    ("--temperature 1000", "--temperature is 1000; it must be from 0 to 100", "--temperature 100"),
    ("--temperature nan", "--temperature is nan; it must be from 0 to 100", "--temperature 0"),
    ("--top-k 5000000000", "--top-k is 5000000000; choose 0 to 4,294,967,295", "--top-k 4294967295"),
    ("--top-p 0", "--top-p is 0; it must be above 0 and at most 1", "--top-p 1"),
    ("--min-p 1", "--min-p is 1; it must be at least 0 and below 1", "--min-p 0"),
    ("--bias e=1000", "--bias of 'e' is 1000.0; it must be from -100 to 100", "--bias e=100"),
    ("--bias ß=1", "--bias: character 'ß' is not in the model's vocabulary; leave it out", "--seed 1"),
    ("--allow ß", "--allow: character 'ß' is not in the model's vocabulary; leave it out", "--seed 1"),
    ("--forbid ß", "--forbid: character 'ß' is not in the model's vocabulary; leave it out", "--seed 1"),
    (
        "--allow a --forbid a",
        "--allow and --forbid leave no character to write; allow another one, or forbid less",
        "--allow ab --forbid a",
    ),
    (
        "--allow ''",
        (
            "Invalid value for '--allow': it is empty; name the characters that may be written, or leave it out to "
            "allow all"
        ),
        "--allow a",
    ),
    ("--stop ''", "--stop '' is empty once normalized; leave it out, or give it at least one character", "--stop a"),
    (f"--stop {'a' * 129}", "characters of --stop: 129; at most 128 are allowed", f"--stop {'a' * 128}"),
    (f"{'--stop a ' * 17}", "number of --stop: 17; at most 16 are allowed", "--stop a " * 16),
    ("--max-characters 5000000", "--max-characters: 5,000,000; at most 1,000,000 are allowed", "--max-characters 9"),
    ("--samples 65", "--samples: 65; at most 64 are allowed", "--samples 64"),
    ("--alternatives 21", "--alternatives: 21; at most 20 are allowed", "--alternatives 20"),
    (f"--seed {2**64}", f"--seed is {2**64}; choose 0 to {2**64 - 1:,}", f"--seed {2**64 - 1}"),
    ("--model-version 9", "--model-version is 9, which is not loaded of model 'tiny'; choose one of 1", "--seed 1"),
    ("--model no", "--model is 'no', which is not loaded; choose one of tiny", "--model tiny"),
    ("--tenant 'a b'", "--tenant is 'a b'; it must be up to 64 of A-Z a-z 0-9 . _ -", "--tenant a.b"),
    (
        "ß --unknown refuse",
        (
            "PROMPT: character 'ß' at position 0 is not in the model's vocabulary; leave it out, or read it as <unk> "
            "with --unknown replace"
        ),
        "ß --unknown replace",
    ),
    (
        "--session open --samples 2",
        "--samples is 2; a session continues in one way: fork it for more with: segue sessions fork NAME NEW...",
        "segue sessions fork open copy",
    ),
    ("--session 'a b'", "--session is 'a b'; it must be 1 to 64 of A-Z a-z 0-9 . _ -", "--session open"),
    ("--session no", NO_SESSION, "segue sessions list"),
    (
        "--ticket-in file",
        (
            "--ticket-in: the ticket is damaged, has expired, or is not for this model, tenant and server; start again "
            "from the text"
        ),
        "The",
    ),
    (
        "--ticket-in file --session open",
        "--ticket-in and --session are both given; a text continues one of them",
        "--session open",
    ),
    ("--ticket-out ''", "--ticket-out: . is a folder; name a file.", "--ticket-out ticket"),
    ("--ticket-out no/ticket", "--ticket-out: there is no folder no", "--ticket-out ticket"),
    ("--ticket-interval 5", "--ticket-interval needs --ticket-out, the file that keeps the state.", ""),
    ("'x\udcff'", "PROMPT is not UTF-8: byte 0xff at position 1", "x"),
]

SCORE: list[Case] = [
    (
        "--text ß --unknown refuse",
        (
            "\"ß\": character 'ß' at position 0 is not in the model's vocabulary; leave it out, or read it as <unk> "
            "with --unknown replace"
        ),
        "--text ß --unknown replace",
    ),
    (
        "refused --lines --unknown refuse",
        (
            "refused:2: character 'ß' at position 0 is not in the model's vocabulary; leave it out, or read it as "
            "<unk> with --unknown replace; --bad-rows skip or keep goes on after it"
        ),
        "refused --lines --unknown replace",
    ),
    (
        "file --window 5000000000",
        "--window is 5000000000; choose 1 to 4,294,967,295 characters, or --lines --carry",
        "",
    ),
    (
        "--text a --ticket-in file --session s",
        "--ticket-in and --session are both given; a text continues one of them",
        "",
    ),
    ("--context a --candidates empty", "--candidate is empty: send at least one text that may follow the context", ""),
    ("--context a --candidates many", "number of --candidate: 4,097; at most 4,096 are allowed", ""),
    ("--text a --threshold nan", "--threshold is no number.", "--text a --threshold 20"),
    ("--text a --html ''", "--html: . is a folder; name a file.", "--text a --html page.html"),
    ("--text a --session no", NO_SESSION, "--text a --session open"),
]

SESSIONS: list[Case] = [
    ("open 'a b'", "NAME is 'a b'; it must be 1 to 64 of A-Z a-z 0-9 . _ -", "open a-b"),
    ("open ''", "NAME is empty; leave it out for a generated name.", "open"),
    (
        "open open",
        "there is a session 'open' already; choose another name, or close it first with: segue sessions close open",
        "open another",
    ),
    ("open x --rewind-characters 5000", "--rewind-characters: 5,000; at most 4,096 are allowed", "open x1"),
    ("open x --idle-seconds 7776001", "--idle-seconds: 7,776,001; at most 7,776,000 are allowed", "open x2"),
    (
        "rewind open 5",
        (
            "session 'open' can go back by at most 0 characters, not by 5; its --rewind-characters, chosen with "
            "`segue sessions open NAME --rewind-characters N`, is 0"
        ),
        "open rewindable --rewind-characters 5",
    ),
    ("fork open a a", "NEW: the same name appears twice; give each session its own", "fork open a b"),
    ("show no", NO_SESSION, "list"),
]

CASES = [
    (f"{command} {arguments}", message, advised and f"{command} {advised}")
    for command, cases in (("generate", GENERATE), ("score", SCORE), ("sessions", SESSIONS))
    for arguments, message, advised in cases
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `segue` in a folder with some files."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("The cat ate.\n")
    Path("refused").write_text("The cat\nß\n")
    Path("empty").write_text("")
    Path("many").write_text("a\n" * 4097)

    def invoke(command: str) -> Result:
        words = shlex.split(command.rpartition("segue ")[2])
        if words[0] == "generate" and "--max-characters" not in words:
            words += ["--max-characters", "5"]
        return CliRunner().invoke(segue, words, prog_name="segue")

    return invoke


@pytest.fixture
def opened(run: Any, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open a session `open` of a tenant of the test's own."""
    monkeypatch.setenv("SEGUE_SERVER", server.address)
    monkeypatch.setenv("SEGUE_TENANT", uuid.uuid4().hex)
    assert run("sessions open open").exit_code == 0


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(("command", "message", "advised"), CASES)
def test_a_message_names_the_option_and_its_remedy_works(run: Any, command: str, message: str, advised: str) -> None:
    ended = run(command)
    assert (ended.exit_code, ended.stderr.splitlines()[-1]) == (2, f"Error: {message}")
    if advised:
        remedied = run(advised)
        assert remedied.exit_code == 0, remedied.output


@pytest.fixture(scope="module")
def several_models(make_checkpoint: Any, start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of a model of one text, and one of lines."""
    folder = tmp_path_factory.mktemp("several")
    for name, documents in (("text", "none"), ("lines", "lines")):
        save_checkpoint(folder / name, make_checkpoint(1, 8, seed=1, documents=documents))
        export_checkpoint(folder / name, folder / "models", name)
    with start_server(models=folder / "models") as running:
        yield running.address


@pytest.mark.parametrize(
    ("command", "message", "advised"),
    [
        ("generate", "the server has several models: name one with --model: lines, text", "generate --model text"),
        ("score --text a", "the server has several models: name one with --model: lines, text", ""),
        (
            "score --model lines --text a --begin nothing",
            '--begin is "nothing"; documents of this model begin with a line feed: leave it out',
            "score --model lines --text a",
        ),
        (
            "score --model lines refused --running",
            (
                "this is a model of documents, so each line of a file is a text of its own: leave --running out, each "
                "line is printed as soon as it is scored"
            ),
            "score --model lines refused",
        ),
        (
            "generate 'a\nb' --model lines",
            (
                "PROMPT: the line feed at position 1 would end a document of this model; leave it out, or send each "
                "line in a text of its own"
            ),
            "generate b --model lines",
        ),
    ],
)
def test_a_message_about_one_of_several_models(
    run: Any, several_models: str, monkeypatch: pytest.MonkeyPatch, *, command: str, message: str, advised: str
) -> None:
    monkeypatch.setenv("SEGUE_SERVER", several_models)
    test_a_message_names_the_option_and_its_remedy_works(run, command, message, advised)


def test_python_reads_its_own_keywords(server: Any) -> None:
    with Client(server.address) as client, pytest.raises(InvalidRequest) as caught:
        client.score("ß", unknown="refuse")
    assert str(caught.value) == (
        "texts[0]: character 'ß' at position 0 is not in the model's vocabulary; leave it out, or pass "
        'unknown="replace" to read it as <unk>'
    )
    with Client(server.address, tenant="a b") as client, pytest.raises(InvalidRequest, match=r"^tenant is 'a b'; "):
        client.score("a")
