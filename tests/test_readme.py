"""README, CONTRIBUTING and docs: what they tell a reader to install, and whether the files that they name exist.

This project is on no package index, and a package of its name there may be a stranger's.
"""

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
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#[^)]*)?\)")
_SOURCE = re.compile(r"`((?:protos|training|export|server|client|tests|benchmarks)/[\w/.]+)`")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_the_project_as_an_index_package(page: Path) -> None:
    assert "segue[" not in page.read_text()


def test_no_message_names_the_project_as_an_index_package() -> None:
    modules = [path for folder in ("training", "export", "server", "client") for path in (ROOT / folder).rglob("*.py")]
    assert len(modules) > 100
    assert not [module for module in modules if "install segue" in (text := module.read_text()) or "'segue[" in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = [link for link in _LINK.findall(page.read_text()) if not link.startswith("https://")]
    assert not [link for link in links if link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_by_their_full_paths_exist(page: Path) -> None:
    assert not [path for path in _SOURCE.findall(page.read_text()) if not (ROOT / path).exists()]


def test_jq_is_told_that_a_perplexity_may_be_null() -> None:
    """In jq null is less than any number."""
    command = ROOT / "client/segue_client/commands/score/command.py"
    filters = [text for page in (*PAGES, command) for text in re.findall(r"jq [^\n]*'(select\(.*?)'", page.read_text())]
    compared = [text for text in filters if "<" in text]
    assert len(compared) >= 2
    assert not [text for text in compared if "!= null" not in text]


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


def test_the_tests_that_reliability_names_exist() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    named = [name.partition("::") for name in re.findall(r"`([\w/]+\.py(?:::\w+)?)`", page)]
    assert len(named) > 40
    for path, _, test in named:
        assert f"def {test}" in (ROOT / path).read_text(), (path, test)
