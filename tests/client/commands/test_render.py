"""What a person sees."""

import io
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from segue_client import Alternative, Model, Score
from segue_client.commands.render import (
    alternatives_table,
    model_table,
    printable,
    score_cells,
    score_headings,
    surprisal_legend,
    surprisal_text,
)
from segue_client.messages.model import PrefixCache


def shown(renderable: Any, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=200, **options)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined] - it is a StringIO


def test_each_character_is_coloured_by_its_surprisal() -> None:
    text = surprisal_text("abcdef", [-0.1, -1.0, -2.0, -4.0, -9.0])
    assert text.plain == "abcdef"
    assert [str(span.style) for span in text.spans] == [
        "dim",
        "green",
        "cyan",
        "yellow",
        "magenta",
        "bold red",
    ]


def test_from_a_ticket_the_first_character_has_its_colour_too() -> None:
    assert [str(span.style) for span in surprisal_text("a", [-0.1]).spans] == ["green"]


@pytest.mark.parametrize("count", [0, 1, 4])
def test_colours_that_would_be_out_of_step_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="for 3 characters"):
        surprisal_text("abc", [-1.0] * count)


def test_colour_is_for_terminals() -> None:
    assert "\x1b" not in shown(surprisal_text("ab", [-9.0]))
    assert "\x1b" in shown(surprisal_text("ab", [-9.0]), force_terminal=True)


def test_the_legend_names_every_colour() -> None:
    assert surprisal_legend().plain == "surprisal in bits: <1 <2 <4 <7 more"


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
