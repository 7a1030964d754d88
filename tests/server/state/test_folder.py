from pathlib import Path

import pytest
from segue_server.errors import StartupError
from segue_server.state.folder import locate
from segue_server.state.stores import open_store


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME, as a user whom the system does not know."""
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", unknown)


def test_both_files_are_in_the_state_folder_which_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    assert locate(folder, None, None) == (folder / "keys", f"sqlite:{folder}/sessions.sqlite")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(folder.iterdir())


def test_what_is_named_is_taken_from_there(tmp_path: Path) -> None:
    keys = tmp_path / "secret"
    assert locate(tmp_path, keys, None) == (keys, f"sqlite:{tmp_path}/sessions.sqlite")
    assert locate(tmp_path, None, "memory:") == (tmp_path / "keys", "memory:")


def test_the_default_is_below_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert locate(None, None, None)[0] == tmp_path / ".local" / "state" / "segue" / "keys"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "elsewhere"))
    assert locate(None, None, None)[0] == tmp_path / "elsewhere" / "segue" / "keys"


@pytest.mark.usefixtures("homeless")
def test_with_both_named_neither_folder_nor_home_is_needed(tmp_path: Path) -> None:
    unusable = tmp_path / "file"
    unusable.touch()
    assert locate(None, Path("keys"), "memory:") == (Path("keys"), "memory:")
    assert locate(unusable, Path("keys"), "memory:") == (Path("keys"), "memory:")


@pytest.mark.usefixtures("homeless")
def test_without_a_home_it_says_what_to_name() -> None:
    with pytest.raises(StartupError, match=r"HOME is not set, and user [0-9]+ has no home; name one with --state"):
        locate(None, None, None)


@pytest.mark.usefixtures("homeless")
async def test_a_file_below_a_home_that_is_not_there_is_refused() -> None:
    with pytest.raises(StartupError, match=r"--sessions is 'sqlite:~/file', but that user has no home"):
        await open_store("sqlite:~/file")


def test_a_folder_that_cannot_be_used_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"cannot write in the state folder .*/state: Not a directory; .*volume"):
        locate(tmp_path / "file" / "state", None, None)
