import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoints import checkpoint_of
from rich.console import Console
from segue_training.evaluation.perplexity import Perplexity
from segue_training.models import LanguageModel, build_model
from segue_training.recipes import TrainingConfig
from segue_training.reports import console as report_module
from segue_training.reports.console import ProgressReport, duration, kept, perplexities, show, summary
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.train_state import Evaluation
from segue_training.train.trainer import Progress

VOCABULARY = Vocabulary(("<unk>", "\n", "\x1b", "[", "b", "]"))


@pytest.fixture
def config(tiny: TrainingConfig) -> TrainingConfig:
    return replace(tiny, steps=100, batch=10, time=100)


def evaluation(step: int, validation: float) -> Evaluation:
    return Evaluation(step, step * 1000, float(step), 2.25, validation, 0.01)


def shown(
    monkeypatch: pytest.MonkeyPatch,
    config: TrainingConfig,
    validations: dict[int, float],
    *,
    terminal: bool = False,
    steps: range = range(1, 101),
    history: tuple[Evaluation, ...] = (),
) -> str:
    """The display of a run with one second per step."""
    seconds = iter(range(1_000_000))
    now = [0.0]
    monkeypatch.setattr(report_module.time, "monotonic", lambda: now[0])
    model: LanguageModel = build_model(config.model(len(VOCABULARY)))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    with ProgressReport(config, VOCABULARY, console, history) as report:
        for step in steps:
            now[0] = 1.0 + next(seconds)
            measured = evaluation(step, validations[step]) if step in validations else None
            report(Progress(step, 2.0, measured, model))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_where_there_is_no_terminal_a_few_plain_lines_are_written(
    monkeypatch: pytest.MonkeyPatch, config: TrainingConfig
) -> None:
    lines = shown(monkeypatch, config, {50: 2.5}).splitlines()
    assert 9 <= len(lines) <= 13
    assert lines[0] == "step 10  loss 2.000  perplexity 7.39  1,000 characters/s  1:30 left"
    assert lines[-1] == "step 100  loss 2.000  perplexity 7.39  best 2.500  1,000 characters/s  0:00 left"


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, config: TrainingConfig) -> None:
    display = shown(monkeypatch, config, {50: 2.5}, terminal=True)
    assert "\x1b" in display
    assert "100/100" in display
    assert "best 2.500" in display
    assert "left" in display


def test_an_evaluation_shows_how_it_compares_and_a_sample(
    monkeypatch: pytest.MonkeyPatch, config: TrainingConfig
) -> None:
    lines = shown(monkeypatch, replace(config, patience=3), {30: 2.5, 60: 2.75, 90: 2.0}).splitlines()
    told = [(line, lines[i + 1]) for i, line in enumerate(lines) if "validation" in line]
    assert [line for line, _ in told] == [
        "step 30  training 2.250  validation 2.500  (best so far)",
        "step 60  training 2.250  validation 2.750  (best 2.500 at step 30; 1 of 3 without a gain)",
        "step 90  training 2.250  validation 2.000  (best so far)",
    ]
    assert [len(sample) for _, sample in told] == [82, 82, 82]
    assert not any("stopped" in line for line in lines)


def test_a_sample_reaches_the_terminal_as_signs(monkeypatch: pytest.MonkeyPatch, config: TrainingConfig) -> None:
    """Text with terminal commands or rich markup is shown literally."""
    display = shown(monkeypatch, config, dict.fromkeys(range(10, 100, 10), 1.0))
    assert "\x1b" not in display
    assert {"␛", "[", "]", "b", "↵"} <= set(display)


def test_early_stopping_is_told(monkeypatch: pytest.MonkeyPatch, config: TrainingConfig) -> None:
    steps = range(1, 61)
    lines = shown(monkeypatch, replace(config, patience=2), {20: 2.0, 40: 2.1, 60: 2.2}, steps=steps).splitlines()
    assert [line for line in lines if "stopped" in line] == ["stopped early: no gain since step 20, patience=2"]


def test_without_patience_no_run_stops_early(monkeypatch: pytest.MonkeyPatch, config: TrainingConfig) -> None:
    assert "stopped" not in shown(monkeypatch, config, {20: 2.0, 40: 2.1, 60: 2.2})


def test_a_run_that_is_resumed_knows_its_best_and_its_pace(
    monkeypatch: pytest.MonkeyPatch, config: TrainingConfig
) -> None:
    """This process takes steps 50 to 100, one per second."""
    text = shown(monkeypatch, config, {60: 2.5}, steps=range(50, 101), history=(evaluation(40, 2.0),))
    assert "(best 2.000 at step 40; 1 without a gain)" in text
    assert "step 59  loss 2.000  perplexity 7.39  best 2.000  1,000 characters/s  0:41 left" in text


@pytest.mark.parametrize(
    ("changes", "unit"), [({"alphabet": "bytes"}, "1,000 bytes/s"), ({"documents": "lines"}, "1.0 steps/s")]
)
def test_speed_is_counted_in_what_is_read(
    monkeypatch: pytest.MonkeyPatch, config: TrainingConfig, changes: dict[str, str], unit: str
) -> None:
    assert unit in shown(monkeypatch, replace(config, **changes), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (725, "12:05"), (3600 * 25 + 61, "25:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.fixture
def checkpoint(tiny: TrainingConfig) -> Checkpoint:
    torch.manual_seed(0)
    model = build_model(tiny.model(len(VOCABULARY)))
    return checkpoint_of(model, VOCABULARY, tiny, steps=40, history=(evaluation(20, 2.0), evaluation(40, 1.5)))


def test_show_prints_a_sample_and_the_figures(checkpoint: Checkpoint) -> None:
    console = Console(file=io.StringIO(), width=120)
    show(checkpoint, console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "\x1b" not in text
    assert "␛" in text
    assert "1.5000" in text
    assert "3.490" in text  # exp(1.25)


def test_the_names_of_figures_are_no_markup() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(perplexities({"[bold]a.txt": Perplexity(1.0, 1, 0)}))
    assert isinstance(console.file, io.StringIO)
    assert "[bold]a.txt" in console.file.getvalue()


def test_the_summary_is_json_with_the_history_and_the_reports_path(checkpoint: Checkpoint) -> None:
    result = json.loads(summary(checkpoint, "runs/cats", 12.34567, Path("runs/cats/report.html")))
    assert result["report"] == "runs/cats/report.html"
    assert [row["validation"] for row in result["history"]] == [2.0, 1.5]
    assert result["validation"]["fresh"]["perplexity"] == pytest.approx(4.4817, abs=1e-4)
    assert (result["seconds"], result["steps"], result["checkpoint"]) == (12.346, 40, "runs/cats")
    assert json.loads(summary(checkpoint, "runs/cats", 1.0))["report"] is None


def test_which_step_is_kept_is_said_with_the_reason(checkpoint: Checkpoint) -> None:
    first, second = evaluation(30, 2.336), evaluation(60, 2.536)
    best = replace(checkpoint, steps=30, taken=60, history=(first, second))
    assert kept(best) == "kept: the weights of step 30, the best of 2 evaluations in 60 steps"
    last = replace(best, steps=60, training=replace(best.training, keep="last"))
    assert kept(last) == (
        "kept: the last weights, of step 60, as keep=last says, at 2.536; the best evaluation was 2.336, at step 30"
    )
    assert "the weights that the run began with; none of 60 steps" in kept(replace(best, steps=0))


def test_after_the_last_step_the_bar_gives_way_to_what_is_done_next(config: TrainingConfig) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=140)
    model: LanguageModel = build_model(config.model(len(VOCABULARY)))
    with ProgressReport(config, VOCABULARY, console) as report:
        report(Progress(config.steps, 2.0, None, model))
        report.say("validating on 1,000 held-out characters")
        assert not report._bar.live.is_started
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rstrip().endswith("validating on 1,000 held-out characters")


def test_a_run_that_keeps_the_last_weights_is_not_shown_the_best(
    monkeypatch: pytest.MonkeyPatch, config: TrainingConfig
) -> None:
    lines = shown(monkeypatch, replace(config, keep="last"), {50: 2.5, 90: 2.75}).splitlines()
    assert lines[-1] == "step 100  loss 2.000  perplexity 7.39  validation 2.750  1,000 characters/s  0:00 left"


def test_a_fine_tuned_run_is_compared_with_its_beginning(config: TrainingConfig) -> None:
    console = Console(file=io.StringIO(), width=140)
    model: LanguageModel = build_model(config.model(len(VOCABULARY)))
    with ProgressReport(config, VOCABULARY, console, (evaluation(10, 2.25),)) as report:
        for step, validation in ((20, 2.5), (30, 2.0), (40, 1.75)):
            report(Progress(step, 2.0, evaluation(step, validation), model, start=2.0))
    assert isinstance(console.file, io.StringIO)
    verdicts = [line.rpartition("(")[2] for line in console.file.getvalue().splitlines() if "validation" in line]
    assert verdicts == [
        "best 2.000 at step 0; 2 without a gain)",
        "best 2.000 at step 0; 3 without a gain)",
        "best so far)",
    ]
