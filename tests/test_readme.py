"""The install lines of README and docs: this project is on no package index, and the name there may be a stranger's."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

THIRD_PARTIES = {"torch"}
"""What a page may tell a reader to install by name."""

_INSTALL = re.compile(r"\b(?:pip3?|uv pip) (?:install|wheel|download) (?P<arguments>[^`\n#]*)")
_PATH = re.compile(r"(\.{1,2}|\.{0,2}/\S+|\S+\.whl|\S+\.txt)(\[[a-z,-]+\])?")
_OPTIONS_WITH_A_VALUE = {"-c", "-f", "-r", "--constraint", "--find-links", "--requirement"}


def strangers(page: str) -> list[str]:
    """Return what the page tells pip to fetch by a name that is not allowed."""
    found = []
    for line in _INSTALL.finditer(page.replace("\\\n", " ")):
        arguments = iter(re.split(r"&&|;|\|", line["arguments"])[0].split())
        for argument in arguments:
            if argument in _OPTIONS_WITH_A_VALUE:
                next(arguments, None)
            elif not argument.startswith("-"):
                name = " ".join(shlex.split(argument))
                if not (_PATH.fullmatch(name) or name in THIRD_PARTIES):
                    found.append(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_only_paths_and_known_third_parties_are_installed(page: Path) -> None:
    assert not strangers(page.read_text())


def test_readme_says_how_to_install() -> None:
    assert "pip install '.[train,export,server]'" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'segue[train]'",
        "pip install segue",
        'Run `pip install --upgrade "segue[server]"` first.',
        "python -m pip install -c constraints.txt segue==0.1.0",
        "pip install torch segue",
        "pip install \\\n    segue",
    ],
)
def test_the_name_alone_is_refused(line: str) -> None:
    assert [name for name in strangers(line) if name.startswith("segue")]


@pytest.mark.parametrize(
    "line",
    [
        "pip install '.[train,export,server]'",
        "pip install --editable '.[dev]' --constraint constraints.txt",
        "pip install dist/segue-0.1.0-py3-none-any.whl && segue models",
        "`pip install torch`",
        "pip install . # the client",
    ],
)
def test_a_path_or_a_known_third_party_is_not(line: str) -> None:
    assert not strangers(line)
