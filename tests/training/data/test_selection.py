"""Which files a folder or a pattern means, against lists computed another way."""

import os
import shlex
import subprocess
from pathlib import Path, PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segue_training.data.corpus import find_corpus
from segue_training.data.encoding import encode_corpus
from segue_training.errors import CorpusError
from segue_training.recipes import small

NAMES = ["a", "b", ".h", "__MACOSX", "d d"]
ENDINGS = [".txt", ".TXT", ".Txt", ".txt.gz", ".TXT.XZ", ".md", ".md.gz", "", ".txt.bak", ".gz"]
paths = st.builds(
    lambda folders, name, ending: "/".join([*folders, name + ending]),
    st.lists(st.sampled_from(NAMES), max_size=3),
    st.sampled_from(NAMES),
    st.sampled_from(ENDINGS),
)
trees = st.dictionaries(paths, st.sampled_from(["file", "symlink", "hard link", "broken link"]), max_size=12)


def grow(folder: Path, tree: dict[str, str]) -> None:
    """Write a tree of files with different contents; a link leads to any file written before."""
    written: list[Path] = []
    for number, (name, kind) in enumerate(tree.items()):
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "broken link":
                path.symlink_to("nowhere")
            elif kind == "file" or not written:
                with path.open("x") as file:
                    file.write(f"{number} ")
                written.append(path)
            elif kind == "symlink":
                path.symlink_to(os.path.relpath(written[number % len(written)], path.parent))
            else:
                path.hardlink_to(written[number % len(written)])
        except (FileExistsError, NotADirectoryError):
            continue


def expected_files(folder: Path) -> list[str]:
    """Ask find(1) for the files, and keep one path to each: the real one, or else the first."""
    command = (
        r"find . -mindepth 1 \( -name '.*' -o -name __MACOSX \) -prune -o "
        r"\( -iname '*.txt' -o -iname '*.txt.gz' -o -iname '*.txt.xz' \) -print"
    )
    found = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    chosen: dict[str, PurePath] = {}
    for name in sorted(map(PurePath, found.splitlines())):
        path = folder / name
        if not path.is_file():
            continue
        same = f"{path.stat().st_dev}:{path.stat().st_ino}"
        if same not in chosen or ((folder / chosen[same]).is_symlink() and not path.is_symlink()):
            chosen[same] = name
    return [str(name) for name in sorted(chosen.values())]


def names_of(folder: Path) -> list[str]:
    try:
        return [str(PurePath(file.origin).relative_to(folder)) for file in find_corpus(str(folder)).files]
    except CorpusError as error:
        assert f"the folder {folder} holds no *.txt file" in str(error)  # noqa: PT017
        return []


@settings(deadline=None, max_examples=60)
@given(tree=trees)
def test_a_folder_is_what_find_finds(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, str]) -> None:
    folder = tmp_path_factory.mktemp("tree")
    grow(folder, tree)
    assert names_of(folder) == expected_files(folder)


@settings(deadline=None, max_examples=40)
@given(tree=trees)
def test_every_file_is_either_read_or_counted_as_left_out(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    grow(folder, {"z.txt": "file", **tree})
    corpus = find_corpus(str(folder))
    top = [
        Path(root, name)
        for root, folders, files in os.walk(folder)
        if not any(part.startswith(".") or part == "__MACOSX" for part in Path(root).relative_to(folder).parts)
        for name in [*files, *(name for name in folders if name.startswith(".") or name == "__MACOSX")]
    ]
    assert len(corpus.files) + sum(skipped.count for skipped in corpus.skipped) == len(top)


@settings(deadline=None, max_examples=40)
@given(tree=trees)
def test_a_pattern_is_what_bash_finds_each_file_once(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    grow(folder, {"z.txt": "file", **tree})
    script = 'shopt -s globstar nullglob; for f in **/*.txt; do [ -f "$f" ] && stat -Lc %d:%i -- "$f"; done; true'
    found = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True).stdout
    files = [Path(file.origin).stat() for file in find_corpus(f"{folder}/**/*.txt").files]
    read = [f"{status.st_dev}:{status.st_ino}" for status in files]
    assert sorted(read) == sorted(set(found.split()))


def test_what_is_left_out_is_said_with_the_reason(tmp_path: Path) -> None:
    for name in [".git/x.txt", ".ipynb_checkpoints/a.txt", "__MACOSX/._a.txt", ".b.txt", "c.md", "d.md", "e", "a.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text" * 999)
    (tmp_path / "f.txt").touch()
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "link").symlink_to(".git")
    os.mkfifo(tmp_path / "pipe.txt")
    sources = encode_corpus(str(tmp_path), small()).sources
    assert [text.name for text in sources.texts] == [f"{tmp_path}/a.txt"]
    assert {skipped.reason: skipped.count for skipped in sources.skipped} == {
        "hidden": 4,
        "links to a folder": 1,
        "links to a file that is read": 1,
        "not a regular file": 1,
        "*.md": 2,
        "without a suffix": 1,
        "empty": 1,
    }


def test_a_file_in_a_hidden_folder_can_be_named(tmp_path: Path) -> None:
    folder = tmp_path / ".hidden"
    folder.mkdir()
    (folder / "a.txt").write_text("text")
    for source in (folder, folder / "a.txt", folder / "*.txt", tmp_path / ".h*" / "*"):
        assert [file.origin for file in find_corpus(str(source)).files] == [f"{folder}/a.txt"]


def test_a_circle_of_links_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.txt").write_text("text")
    (tmp_path / "sub/up").symlink_to("..")
    for source in (tmp_path, tmp_path / "**" / "*.txt"):
        assert [file.origin for file in find_corpus(str(source)).files] == [f"{tmp_path}/sub/a.txt"]


@pytest.mark.parametrize("name", ["texts", "a [b] c", "it's", "\n\u2028"])
@pytest.mark.parametrize("suffix", [".md", ".MD", ".rst.gz"])
def test_the_pattern_in_the_remedy_reads_the_other_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    (folder / "deep").mkdir(parents=True)
    (folder / f"a{suffix}").write_text("A")
    (folder / f"deep/b{suffix}").write_text("B")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    with pytest.raises(CorpusError, match=r"holds no \*\.txt file; for its 2 ") as caught:
        find_corpus(name)
    assert "\n" not in str(caught.value)
    word = str(caught.value).partition("give the pattern ")[2]
    pattern = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, text=True, check=True).stdout
    assert [file.origin[-len(suffix) - 1 :] for file in find_corpus(pattern).files] == [f"a{suffix}", f"b{suffix}"]


def test_json_lines_in_a_folder_need_the_field(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.zst").touch()
    with pytest.raises(CorpusError, match=r"for its 1 \*\.jsonl\.zst, name the field .* with --field"):
        find_corpus(str(tmp_path))
    assert len(find_corpus(str(tmp_path), "text").files) == 1


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:  # root may read everything
        if os.fspath(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(CorpusError, match=f"cannot read {shlex.quote(str(tmp_path))}/secret: Permission denied"):
        find_corpus(str(tmp_path))
