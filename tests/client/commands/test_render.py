"""What a person sees."""

import io
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text
from segue_client import Alternative, Model, Score
from segue_client.commands.render import (
    HIGHEST_STYLE,
    SURPRISAL_STYLES,
    UNSCORED_STYLE,
    alternatives_table,
    model_table,
    print_row,
    print_table,
    printable,
    score_cells,
    score_headings,
    surprisal_legend,
    surprisal_text,
)
from segue_client.commands.score.html_page import html_page
from segue_client.messages.model import PrefixCache


def shown(renderable: Any, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=200, **options)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined] - it is a StringIO


def test_each_character_is_coloured_by_its_surprisal() -> None:
    text = surprisal_text("abcdef", [-0.1, -1.0, -2.0, -4.0, -9.0])
    assert text.plain == "abcdef"
    assert [str(span.style) for span in text.spans] == [
        UNSCORED_STYLE,
        *(style for _, style in SURPRISAL_STYLES),
        HIGHEST_STYLE,
    ]


def luminance(colour: Color) -> float:
    """As WCAG defines it."""
    red, green, blue = (
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in (value / 255 for value in colour.get_truecolor())
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_more_surprising_the_darker_and_always_readable() -> None:
    styles = [Style.parse(style) for style in (*(style for _, style in SURPRISAL_STYLES), HIGHEST_STYLE)]
    papers, inks = ([luminance(colour) for colour in colours if colour] for colours in zip(*pairs(styles), strict=True))
    assert len(papers) == len(inks) == len(styles)
    assert all(one > 1.2 * next_one for one, next_one in pairwise(papers))
    for paper, ink in zip(papers, inks, strict=True):
        assert (max(paper, ink) + 0.05) / (min(paper, ink) + 0.05) >= 4.5


def pairs(styles: list[Style]) -> list[tuple[Color | None, Color | None]]:
    return [(style.bgcolor, style.color) for style in styles]


def test_the_legend_of_a_page_is_readable_on_light_and_dark(tmp_path: Path) -> None:
    with html_page(tmp_path / "page.html"):
        pass
    page = (tmp_path / "page.html").read_text()
    assert '<p class="legend">' in page
    assert ".legend i { color: var(--ink); }" in page
    opacity = float(re.findall(r"\.s\d \{ background: rgb\(var\(--heat\) / ([\d.]+)\)", page)[-1])
    for ink, paper, heat in re.findall(r"--ink: (#\w+); --paper: (#\w+).*?--heat: ([\d ]+);", page, re.DOTALL):
        over = [float(value) for value in heat.split()]
        under = Color.parse(paper).get_truecolor()
        mixed = (opacity * above + (1 - opacity) * below for above, below in zip(over, under, strict=True))
        shades = luminance(Color.parse(ink)), luminance(Color.from_rgb(*mixed))
        assert (max(shades) + 0.05) / (min(shades) + 0.05) >= 4.5


def test_a_long_row_leaves_its_columns_alone() -> None:
    to = Console(file=io.StringIO(), width=40, soft_wrap=True)
    print_row("1.0  2.0  a.log:1", Text("short"), to)
    print_row("1.0  2.0  a.log:2", Text("x" * 50), to)
    lines = to.file.getvalue().splitlines()  # type: ignore[attr-defined] - it is a StringIO
    assert lines == ["1.0  2.0  a.log:1  short", "1.0  2.0  a.log:2", "    " + "x" * 36, "    " + "x" * 14]


def test_from_a_ticket_the_first_character_has_its_colour_too() -> None:
    assert [str(span.style) for span in surprisal_text("a", [-0.1]).spans] == [SURPRISAL_STYLES[0][1]]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_colours_that_would_be_out_of_step_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="for 3 characters"):
        surprisal_text("abc", [-1.0] * count)


def test_colour_is_for_terminals() -> None:
    assert "\x1b" not in shown(surprisal_text("ab", [-9.0]))
    assert "\x1b" in shown(surprisal_text("ab", [-9.0]), force_terminal=True)


def test_the_legend_names_every_colour() -> None:
    assert surprisal_legend().plain == "surprisal in bits: <1 <2 <4 <7 more"


@pytest.mark.parametrize(
    "environment",
    [{"TERM": "xterm-256color"}, {"TERM": "xterm"}, {"TERM": "linux"}, {"TERM": "xterm-256color", "NO_COLOR": "1"}],
    ids=lambda environment: " ".join(environment.values()),
)
def test_the_five_levels_look_different_on_every_terminal(environment: dict[str, str]) -> None:
    """In a process of its own, because rich keeps what a style was on the first terminal that it was shown on."""
    program = "from segue_client.commands import render as r; r.print_surprisal_legend(r.console(forced=True))"
    rest = {name: value for name, value in os.environ.items() if name not in {"COLORTERM", "NO_COLOR"}}
    shown = subprocess.run(
        [sys.executable, "-c", program], env=rest | environment, capture_output=True, text=True, check=True, timeout=30
    )
    told = re.findall(r"((?:\x1b\[[\d;]*m)*)(<\d|more)", shown.stdout)
    assert [level for _, level in told] == ["<1", "<2", "<4", "<7", "more"]
    assert len({style.removeprefix("\x1b[0m") for style, _ in told}) == 5


def test_a_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x00\x7f\x9b\n\t") == "a\u241b[2Jb\u2400\u2421\ufffd\n\t"


def test_a_score_is_aligned_with_its_headings() -> None:
    score = Score(sum_log_probability=-3.0, scored_count=1234, unknown_count=1)
    headings, cells = score_headings(), score_cells(score)
    assert headings.split() == ["bits/char", "perplexity", "log-probability", "scored", "unknown"]
    assert cells.split() == ["0.004", "1.002", "-3.000", "1,234", "1"]
    assert len(headings) == len(cells)
    assert score_cells(Score()).split() == ["-", "-", "0.000", "0", "0"]
    assert score_cells(Score(sum_log_probability=-1e6, scored_count=1)).split()[1] == "inf"


def test_models() -> None:
    model = Model(
        name="shakespeare",
        version=2,
        sha256="",
        architecture="lstm",
        layers=2,
        hidden=512,
        vocabulary=("<unk>", "a"),
        begin="a",
        normalization="line-feeds",
        corpus="[plays]",
        validation_loss=0.0,
        provider="CUDAExecutionProvider",
        reproducible=True,
        live_sequences=1234,
        alphabet="characters",
        documents="none",
        host_class="",
        ticket_bytes=8_392,
        prefix_cache=PrefixCache(hits=0, misses=0, symbols_saved=0, states=0, bytes=0),
    )
    row = shown(model_table([model])).splitlines()[1].split()
    assert row == [
        "shakespeare/2",
        "lstm",
        "2",
        "x",
        "512",
        "[plays]",
        "2",
        "characters",
        "1.000",
        "8,392",
        "bytes",
        "1,234",
        "CUDA",
    ]
    of_bytes = replace(model, vocabulary=(), alphabet="bytes", documents="lines")
    assert "bytes, lines" in shown(model_table([of_bytes]))


def test_alternatives_are_shown_beside_the_chosen_character() -> None:
    places = [
        [Alternative(" ", math.log(0.5)), Alternative("\n", math.log(0.25))],
        [Alternative("[", math.log(0.125)), Alternative("\x1b", math.log(0.0625))],
    ]
    table = alternatives_table(" x", [math.log(0.5), math.log(0.0005)], places)
    heading, *rows = shown(table).splitlines()
    assert heading.split() == ["character", "probability", "likeliest"]
    assert [row.split() for row in rows] == [
        ["\u2423", "50.0%", "\u2423", "50.0%", "\u240a", "25.0%"],
        ["x", "0.1%", "[", "12.5%", "\u241b", "6.2%"],
    ]
    coloured = shown(table, force_terminal=True, color_system="standard")
    assert "\x1b[1m\u2423 50.0%" in coloured
    assert "\x1b[1m[" not in coloured


def test_a_table_is_whole_on_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    table = Table("session", "seed", box=None)
    table.add_row("587c091aa61ac0e9f067869d", "18,446,744,073,709,551,615")
    print_table(table)
    assert capsys.readouterr().out.split()[-2:] == ["587c091aa61ac0e9f067869d", "18,446,744,073,709,551,615"]
