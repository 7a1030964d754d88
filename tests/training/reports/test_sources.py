import json
from pathlib import Path

import pytest
from segue_training.data.sources import ReadText, Skipped, Skips, Sources
from segue_training.errors import TrainingError
from segue_training.reports.sources import describe, save_sources


def texts(*sizes: int) -> tuple[ReadText, ...]:
    return tuple(ReadText(f"{number}.txt", size, f"{number:064}") for number, size in enumerate(sizes))


def test_one_text_is_one_line() -> None:
    assert list(describe(Sources(texts(12_345)))) == ["text: 0.txt, 12,345 characters"]


def test_ten_texts_are_listed_in_the_order_in_which_they_are_read() -> None:
    first, *rows = describe(Sources(texts(*range(1000, 1010))))
    assert first == "texts: 10 files, 10,045 characters"
    assert [row.split() for row in rows] == [[f"1,00{number}", f"{number}.txt"] for number in range(10)]


def test_of_many_texts_the_largest_and_the_smallest_are_listed() -> None:
    first, *rows = describe(Sources(texts(*range(1, 1001))), Path("run/corpus.json"))
    assert first == "texts: 1,000 files, 500,500 characters, all listed in run/corpus.json"
    assert [row.split()[0] for row in rows] == ["1,000", "999", "998", "...", "3", "2", "1"]


def test_what_was_left_out_is_counted_with_examples() -> None:
    skips = Skips()
    for number in range(1200):
        skips.add("hidden", f".{number}")
    skips.add("*.md", "a.md")
    sources = Sources.of([*texts(5), ReadText("e.txt", 0, "")], skips.all())
    assert list(describe(sources))[1:] == [
        "not read: 1,200 hidden (.0, .1, .2, ...); 1 *.md (a.md); 1 empty (e.txt)",
    ]


def test_reasons_beyond_the_most_frequent_are_counted_together() -> None:
    skipped = tuple(Skipped(f"*.{number}", 2, ("x",)) for number in range(9))
    [_, line] = describe(Sources(texts(5), skipped))
    assert line.endswith("; 2 *.5 (x, ...); 6 others")


def test_copies_are_named_with_what_they_copy() -> None:
    read = [ReadText(name, 9, sha256) for name, sha256 in zip("abcdefg", "1221333", strict=True)]
    assert [line for line in describe(Sources(tuple(read))) if line.startswith("warning: ")] == [
        "warning: c holds the same text as b",
        "warning: d holds the same text as a",
        "warning: f holds the same text as e",
        "warning: 1 more files hold the same text as another",
        "warning: every copy is read, so held-out text may be in the training part too: leave the copies out",
    ]


def test_every_text_is_in_the_run_s_folder(tmp_path: Path) -> None:
    sources = Sources(texts(*range(1, 100)), (Skipped("hidden", 1, ("é",)),))
    save_sources(tmp_path, sources)
    document = json.loads((tmp_path / "corpus.json").read_text(encoding="utf-8"))
    assert [text["characters"] for text in document["texts"]] == list(range(1, 100))
    assert document["skipped"] == [{"reason": "hidden", "count": 1, "examples": ["é"]}]
    with pytest.raises(TrainingError, match=r"cannot write .*corpus\.json: No such file"):
        save_sources(tmp_path / "gone", sources)
