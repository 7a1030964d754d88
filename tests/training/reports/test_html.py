import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from checkpoints import checkpoint_of
from segue_training.errors import TrainingError
from segue_training.evaluation.baselines import Baseline
from segue_training.evaluation.perplexity import Perplexity, Validation
from segue_training.evaluation.surprisal import Alternative, Surprisal
from segue_training.models import build_model
from segue_training.recipes import recipe
from segue_training.reports.html import bars, percent, render, sentence, shade, write_report
from segue_training.reports.summary import RunReport, Sample, gather
from segue_training.text.glyphs import glyph
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, CorpusRecord
from segue_training.train.train_state import Evaluation

HOSTILE = "<script>alert(1)</script> &amp; \"x\" 'y' </pre> <!-- {{ 7*7 }} \x00\x1b[2J \u202eRTL\u202c e\u0301 <b>\n"
BASELINES = (Baseline("uniform", 4.0), Baseline("<2-gram> & co", 2.0), Baseline("gzip", 1.0))
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """A page as a browser parses it: its elements, which must be closed properly, and its texts."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.append((tag, given))
        if tag not in VOID:
            self.open.append((tag, given.get("id", given.get("class", ""))))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        path = " ".join(f"{tag}#{name}" for tag, name in self.open)
        self.texts.append((path, data))

    def text(self, within: str) -> str:
        return "".join(data for path, data in self.texts if within in path)


def checkpoint(**changes: object) -> Checkpoint:
    torch.manual_seed(0)
    config = replace(recipe("small"), hidden=8, embedding=4)
    vocabulary = Vocabulary(("<unk>", *sorted(set(HOSTILE) | set("abc"))))
    model = build_model(config.model(len(vocabulary)))
    history = (Evaluation(30, 100, 1.0, 2.0, math.nan, 0.01), Evaluation(60, 200, 2.0, 1.5, 1.8, 0.005))
    fields = {"corpus": CorpusRecord("<i>cats & dogs", "ab" * 32, 5000), "history": history}
    return checkpoint_of(model, vocabulary, config, **{**fields, **changes})


def report_of(made: Checkpoint) -> RunReport:
    return gather(made, made.vocabulary.encode(HOSTILE * 3), BASELINES)


@pytest.fixture(scope="module")
def report() -> RunReport:
    return report_of(checkpoint())


@pytest.fixture(scope="module")
def page(report: RunReport) -> Page:
    return Page(render(report))


def test_the_passage_comes_back_from_the_page(report: RunReport, page: Page) -> None:
    visible = "".join("↵\n" if c == "\n" else c if c in ' \t"' or c.isprintable() else glyph(c) for c in HOSTILE * 3)
    assert page.text("pre#passage") == visible.removeprefix("<")
    assert len([1 for tag, given in page.tags if tag == "span" and given.get("id", "").startswith("c")]) == len(
        report.passage
    )


def test_hostile_text_adds_no_element_and_no_command(page: Page) -> None:
    """Neither from the passage nor from samples, names and titles: the only script is the page's own."""
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    assert {"b", "i"} & {tag for tag, given in page.tags if not given and tag == "i"} == set()
    assert "alert(1)" in page.text("pre#passage").replace("\n", "")
    assert "49" not in page.text("pre#passage")


def test_no_control_or_bidirectional_override_is_in_the_file(report: RunReport) -> None:
    content = render(replace(report, samples=(Sample(1.0, HOSTILE),)))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", content)


def test_a_sample_comes_back_from_the_page(report: RunReport) -> None:
    page = Page(render(replace(report, samples=(Sample(1.0, "\n" + HOSTILE + "b"),))))
    shown = page.text("figure#card pre#")
    assert (
        shown
        == HOSTILE.replace("\x00", "␀").replace("\x1b", "␛").replace("\u202e", "⟨U+202E⟩").replace("\u202c", "⟨U+202C⟩")
        + "b"
    )


def test_titles_say_what_was_expected(report: RunReport, page: Page) -> None:
    titles = [given["title"] for tag, given in page.tags if tag == "span" and "title" in given]
    assert titles == [sentence(s) for s in report.passage]


def test_the_page_needs_nothing_beside_it(report: RunReport) -> None:
    content = render(report)
    for tag, given in Page(content).tags:
        assert tag not in {"link", "img", "iframe", "object"}
        for name in ("src", "href", "xlink:href"):
            assert given.get(name, "#").startswith("#"), (tag, given)
    assert set(re.findall(r"https?://[^\"<]*", content)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "@import" not in content
    assert "url(" not in content.replace("url(#", "")


def test_ids_are_unique_and_links_lead_to_them(page: Page) -> None:
    ids = [given["id"] for _, given in page.tags if "id" in given]
    assert len(ids) == len(set(ids))
    links = {given[name][1:] for _, given in page.tags for name in ("href", "xlink:href") if name in given}
    assert links
    assert links <= set(ids)


def test_the_figures_are_there(page: Page) -> None:
    text = page.text("main#")
    for figure in ("4.482", "1.5000", "3.490", "5,000 characters", "0.1", "ab" * 32, "<2-gram> & co", "<i>cats & dogs"):
        assert figure in text
    assert "50 % more nats than the best baseline, gzip" in text


def test_a_compressor_that_is_better_is_explained(report: RunReport) -> None:
    words = "xz -9e, which copies what the text repeats word for word"
    assert words in render(replace(report, baselines=(Baseline("xz -9e", 1.0),)))
    assert words not in render(replace(report, baselines=(Baseline("xz -9e", 3.0),)))
    assert "word for word" not in render(replace(report, baselines=(Baseline("8-gram", 1.0),)))


def test_the_model_stands_among_its_baselines_in_order(report: RunReport) -> None:
    rows = bars(report)
    assert [row.name for row in rows] == ["uniform", "<2-gram> & co", "this model", "gzip"]
    assert [row.share for row in rows] == [100, 50, 37.5, 25]
    assert rows[0].perplexity == pytest.approx(math.exp(4))


@pytest.mark.parametrize(
    "changes",
    [
        {"history": ()},
        {"history": (Evaluation(1, 1, 0.0, math.inf, math.nan, 0.1),)},
        {"documents": "lines"},
        {"validation": Validation(Perplexity(math.inf, 1, 0), Perplexity(1e4, 1, 0))},
        {"recipe": "<unknown>"},
    ],
)
def test_a_page_is_made_of_every_run(changes: dict[str, object]) -> None:
    Page(render(report_of(checkpoint(**changes))))
    made = checkpoint(**changes)
    Page(render(gather(made, made.vocabulary.encode("a"), ())))


def test_a_model_of_bytes_is_reported_in_characters() -> None:
    vocabulary = Vocabulary.of_bytes()
    model = build_model(replace(recipe("small"), hidden=8).model(257))
    made = checkpoint(vocabulary=vocabulary, model=model.config, weights=model.state_dict())
    page = Page(render(gather(made, vocabulary.encode("naïve 漢字 🎉\n" * 9), BASELINES)))
    assert page.text("pre#passage") == ("naïve 漢字 🎉↵\n" * 9).removeprefix("n")
    assert "257 bytes" in page.text("header#")


def test_the_file_is_whole_or_not_there(tmp_path: Path) -> None:
    made = checkpoint()
    ids = made.vocabulary.encode(HOSTILE)
    write_report(tmp_path / "report.html", made, ids, BASELINES)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(gather(made, ids, BASELINES))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(TrainingError, match=r"cannot write the report .*missing.*: No such file"):
        write_report(tmp_path / "missing" / "report.html", made, ids, BASELINES)


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (1.0, "100 %"),
        (0.996, "100 %"),
        (0.374, "37 %"),
        (0.0999, "10 %"),
        (0.0994, "9.9 %"),
        (0.042, "4.2 %"),
        (0.00999, "1.0 %"),
        (0.0042, "0.42 %"),
        (0.00099, "1 in 1,000"),
        (1 / 12_345, "1 in 12,000"),
        (0.0, "never"),
        (1e-310, "never"),
    ],
)
def test_probabilities_in_words(probability: float, text: str) -> None:
    assert percent(probability) == text


@pytest.mark.parametrize(("nats", "expected"), [(0.0, 0), (0.99, 0), (1.0, 1), (7.99, 7), (8.0, 8), (math.inf, 8)])
def test_a_shade_is_a_nat(nats: float, expected: int) -> None:
    assert shade(Surprisal("a", nats, ())) == expected


def test_a_sentence_names_what_cannot_be_seen() -> None:
    surprisal = Surprisal("\n", math.log(4), (Alternative(" ", 0.5), Alternative("E2 80 …", 0.1)))
    assert sentence(surprisal) == "↵  25 %;  instead  ␣ 50 %, E2 80 … 10 %"
