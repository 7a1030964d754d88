"""A server's messages in the words of the Python client: keywords where the contract's fields have other names."""

from collections.abc import Mapping
from typing import Final

_PHRASES: Final[Mapping[str, str]] = {
    "or let unknown_policy replace it by <unk>": 'or pass unknown="replace" to read it as <unk>',
    "unknown_policy is ": "unknown is ",
    "send `exact` as false to continue anyway": "pass exact=False to continue anyway",
    "begin is BEGIN_POLICY_NOTHING": 'begin is "nothing"',
    "end is END_POLICY_LINE_FEED": 'end is "line-feed"',
    "windows.characters is": "windows is",
    "segue-tenant is": "tenant is",
    "model.name is empty, and the server has several: name": "the server has several models: name",
}


def in_keywords(message: str) -> str:
    """Return `message` with the names that a caller of the client uses."""
    for phrase, words in _PHRASES.items():
        message = message.replace(phrase, words)
    return message
