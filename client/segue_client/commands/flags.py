"""The client's messages in the words of the command line: options where the Python client has keywords."""

import re
from collections.abc import Mapping
from typing import Final

CLIENT: Final = frozenset({"generate", "score", "sessions", "models"})
"""The commands whose errors are the Python client's."""

_OPTIONS: Final[Mapping[str, str]] = {
    "temperature": "--temperature",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "bias": "--bias",
    "biases": "--bias",
    "allowed_characters": "--allow",
    "forbidden_characters": "--forbid",
    "seed": "--seed",
    "max_characters": "--max-characters",
    "stop": "--stop",
    "stop string": "--stop",
    "stop strings": "--stop",
    "a stop string": "--stop",
    "samples": "--samples",
    "top_alternatives": "--alternatives",
    "ticket_interval": "--ticket-interval",
    "version": "--model-version",
    "model": "--model",
    "tenant": "--tenant",
    "begin": "--begin",
    "end": "--end",
    "windows": "--window",
    "jobs": "--jobs",
    "idle_seconds": "--idle-seconds",
    "rewind_characters": "--rewind-characters",
    "session": "--session",
    "context": "--context",
    "candidates": "--candidate",
    "candidate": "--candidate",
    "prompt": "PROMPT",
    "characters": "CHARACTERS",
    "names": "NEW",
}
"""What an option or an argument is called in the keywords of the Python client, or in a server's words."""

_FIELD: Final = re.compile(
    rf"^(characters of |number of |)({'|'.join(sorted(_OPTIONS, key=len, reverse=True))})(?=: | is | of '| holds )"
)

_REPHRASED: Final = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r'pass unknown="replace" to read it as <unk>', "read it as <unk> with --unknown replace"),
        (r"pass exact=False to continue anyway", "continue anyway with --inexact"),
        (r"to resume anyway, choose exact=False$", "to resume anyway, use --inexact"),
        (
            r"choose one with version, or accept both with exact=False$",
            "choose one with --model-version, or accept both with --inexact",
        ),
        (r"^allowed_characters and forbidden_characters leave", "--allow and --forbid leave"),
        (r"^ranks and top_alternatives are", "--ranks and --alternatives are"),
        (r"^ticket and session are both given", "--ticket-in and --session are both given"),
        (r"^the ticket is damaged", "--ticket-in: the ticket is damaged"),
        (r"^([\w ]+) holds the lone surrogate '\\udc([89a-f].)' at", r"\1 is not UTF-8: byte 0x\2 at"),
        (r"^stop string '", "--stop '"),
        (r"^(windows is .*), or 'lines'$", r"\1, or --lines --carry"),
        (r": it must be 0$", ": leave it out"),
        (r"^(the server has several models): name one of (.*)$", r"\1: name one with --model: \2"),
        (
            r"^model '([^'/]+)/(\d+)' is not loaded; loaded: .*$",
            r"--model is '\1/\2', with a version: name it apart, with --model \1 --model-version \2",
        ),
        (r"^model ('.*') is not loaded; loaded: (.*)$", r"--model is \1, which is not loaded; choose one of \2"),
        (
            r"^version (\d+) of model ('.*') is not loaded; loaded: (.*)$",
            r"--model-version is \1, which is not loaded of model \2; choose one of \3",
        ),
        (r"(; a session continues in one way: fork it for more)$", r"\1 with: segue sessions fork NAME NEW..."),
        (
            r"^(there is no session '(.*)': .*); open it, or name another$",
            r"\1; see which there are with: segue sessions list",
        ),
        (r"^(there is a session '(.*)' already; .* close it first)$", r"\1 with: segue sessions close \2"),
        (
            r"^(session '.*' can go back by at most .*; its )rewind_characters, chosen when it is opened(, is .*)$",
            r"\1--rewind-characters, chosen with `segue sessions open NAME --rewind-characters N`\2",
        ),
        (
            r"^(characters of prompt: .*)$",
            r"\1; read it first with `segue score FILE --ticket-out TICKET`, and continue with --ticket-in TICKET",
        ),
    )
)


def in_flags(message: str, command: str = "score") -> str:
    """Return `message` with the names that a user of `segue COMMAND` types."""
    session = "NAME is" if command == "sessions" else "--session is"
    message = message.replace("the session's name is", session)
    for pattern, words in _REPHRASED:
        message = pattern.sub(words, message)
    return _FIELD.sub(lambda match: match[1] + _OPTIONS[match[2]], message)
