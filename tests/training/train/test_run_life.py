"""A run at any time of its life: used before its end, continued after it, and the beginning of another."""

import hashlib
import json
import signal
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from segue_client.commands.main import segue
from segue_export.artifact import read_artifact
from segue_training.errors import ConfigurationError, Interrupted
from segue_training.evaluation.evaluate import validate
from segue_training.recipes import TrainingConfig
from segue_training.train.checkpoint import Checkpoint, load_checkpoint
from segue_training.train.distributed import ProcessGroup
from segue_training.train.fine_tuning import load_start
from segue_training.train.run import train
from segue_training.train.run_spec import RunSpec, begin_run, resume_run
from segue_training.train.run_weights import UNMEASURED, load_run, validated
from segue_training.train.schedule import learning_rate
from segue_training.train.train_state import read_record, read_train_state, tensors_below, train_state_files
from segue_training.train.trainer import Progress

PLAIN = ["--threads", "1", "--no-report", "--device", "cpu"]
SHAPE = [f"--set={setting}" for setting in ("hidden=24", "embedding=8", "batch=8", "time=16", "warmup=5")]


def segue_train(*arguments: object) -> Result:
    return CliRunner().invoke(segue, ["train", *map(str, arguments), *PLAIN])


def command(*arguments: object) -> Result:
    return CliRunner().invoke(segue, [*map(str, arguments)])


def begun(path: Path, folder: Path, *settings: str, steps: int) -> Checkpoint:
    done = segue_train(path, "--out", folder, *SHAPE, *settings, "--steps", steps)
    assert done.exit_code == 0, done.output
    return load_checkpoint(folder)


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.steps, found.taken) == (expected.steps, expected.taken)
    assert [replace(e, seconds=0) for e in found.history] == [replace(e, seconds=0) for e in expected.history]
    assert found.validation == expected.validation
    for name, weight in expected.weights.items():
        assert torch.equal(found.weights[name], weight), name


def stop_after(step: int, spec: RunSpec) -> None:
    """Train until a signal comes in `step`."""

    def report(progress: Progress) -> None:
        if progress.step == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=f"after step {step}"):
        train(spec, report, ProcessGroup())


@pytest.fixture
def begin(text_file: Path, tiny: TrainingConfig, tmp_path: Path) -> Any:
    return lambda **changes: begin_run(str(text_file), None, "tiny", replace(tiny, **changes), tmp_path / "run")


def test_a_stopped_run_gives_its_best_weights_and_their_true_validation(begin: Any) -> None:
    spec = begin(evaluations=6)
    stop_after(45, spec)
    state = read_train_state(spec.folder)[1]
    run = load_run(spec.folder)
    best = min(state.progression.history, key=lambda e: e.validation)
    assert (run.checkpoint.steps, run.checkpoint.taken) == (best.step, 45)
    assert run.sentence == f"weights of step {best.step} (the best of 4 so far); the run stopped at step 45 of 60"
    for name, weight in tensors_below("best/", state).items():
        assert torch.equal(run.checkpoint.weights[name], weight)
    latest = load_run(spec.folder, "latest").checkpoint
    assert latest.steps == 45
    assert torch.equal(latest.weights["output.bias"], state.tensors["model/output.bias"])
    corpus = spec.corpus
    found = validated(run).validation
    model = run.checkpoint.build_model()
    assert found == validate(model, corpus.training, corpus.validation, corpus.vocabulary) != UNMEASURED


def test_a_run_that_was_not_evaluated_yet_gives_its_latest_and_one_that_keeps_the_last_too(begin: Any) -> None:
    spec = begin(evaluations=1)
    stop_after(7, spec)
    assert load_run(spec.folder).sentence == "weights of step 7 (none evaluated yet); the run stopped at step 7 of 60"
    refused = command("evaluate", spec.folder, spec.origin.source, "--weights", "best")
    assert refused.exit_code == 2
    assert "were evaluated yet: leave --weights out" in refused.stderr


def test_a_run_that_keeps_its_last_weights_gives_the_latest(begin: Any) -> None:
    spec = begin(evaluations=60, keep="last")
    stop_after(9, spec)
    assert load_run(spec.folder).checkpoint.steps == 9


@pytest.mark.parametrize("implementation", ["fused", "scratch"])
def test_a_stopped_run_is_exported_and_evaluated(begin: Any, tmp_path: Path, implementation: str) -> None:
    spec = begin(evaluations=6, implementation=implementation)
    stop_after(35, spec)
    done = command("export", spec.folder, "--models", tmp_path / "models", "--json")
    assert done.exit_code == 0, done.output
    assert "the run stopped at step 35 of 60" in done.stderr
    run = json.loads(done.stdout)["run"]
    assert run == {"steps": load_run(spec.folder).checkpoint.steps, "taken": 35, "planned": 60, "base": None}
    manifest = read_artifact(tmp_path / "models" / "cats" / "1").manifest
    assert manifest.run is not None
    assert manifest.run.taken == 35
    assert manifest.validation_loss == validated(load_run(spec.folder)).validation.fresh.nats
    scored = command("evaluate", spec.folder, spec.origin.source, "--json")
    assert scored.exit_code == 0, scored.output
    figures = json.loads(scored.stdout)
    assert figures["part"] == "validation"
    assert figures["nats"] == pytest.approx(manifest.validation_loss, abs=1e-9)


def test_the_text_of_a_stopped_run_may_have_moved(begin: Any, text_file: Path, tmp_path: Path) -> None:
    spec = begin()
    stop_after(25, spec)
    moved = text_file.rename(tmp_path / "moved.txt")
    other = tmp_path / "other.txt"
    other.write_text("the cat sat\n" * 200)
    export = ["export", spec.folder, "--models", tmp_path / "models"]
    for given, words in (([], "give its place with --text"), (["--text", other], "give that text with --text")):
        refused = command(*export, *given)
        assert (refused.exit_code, words in refused.stderr) == (2, True), refused.output
    assert command(*export, "--text", moved).exit_code == 0
    resumed = segue_train("--resume", spec.folder)
    assert resumed.exit_code == 2
    assert f"if the text was moved: segue train NEWPATH --resume {spec.folder}" in resumed.stderr
    assert segue_train(moved, "--resume", spec.folder).exit_code == 0


@pytest.mark.parametrize(
    "settings",
    [
        ["--set=learning_rate=0.3", "--set=output_dropout=0.2"],
        ["--set=keep=last"],
        ["--set=implementation=scratch", "--set=output_dropout=0"],
    ],
)
def test_a_finished_run_is_continued_to_the_bits_of_one_that_was_longer(
    text_file: Path, tmp_path: Path, settings: list[str]
) -> None:
    """With a constant rate, the length decides nothing but when evaluations fall.

    At a high rate the kept weights are not the last, and it is the last that a run goes on with.
    """
    constant = ["--set=schedule=constant", *settings]
    longer = begun(text_file, tmp_path / "longer", *constant, "--set=evaluations=20", steps=40)
    shorter = begun(text_file, tmp_path / "run", *constant, "--set=evaluations=10", steps=20)
    assert (shorter.steps < shorter.taken) == ("--set=learning_rate=0.3" in settings)
    done = segue_train("--resume", tmp_path / "run", "--steps", "+20", "--set", "evaluations=20")
    assert done.exit_code == 0, done.output
    continued = load_checkpoint(tmp_path / "run")
    assert_same(continued, longer)
    assert continued.training == longer.training


def test_a_finished_run_says_how_it_can_go_on(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    begun(text_file, folder, steps=20)
    before = sorted(path.name for path in folder.iterdir())
    refused = segue_train("--resume", folder)
    assert refused.exit_code == 2
    assert f"{folder} has taken all its 20 steps: add --steps +20" in refused.stderr
    assert "steps is 10, and the run has taken 20" in segue_train("--resume", folder, "--steps", 10).stderr
    again = segue_train(text_file, "--out", folder)
    assert f"to train it further: segue train --resume {folder} --steps +N" in again.stderr
    assert sorted(path.name for path in folder.iterdir()) == before
    config = load_checkpoint(folder).training
    done = segue_train("--resume", folder, "--steps", "+20")
    assert done.exit_code == 0, done.output
    was, now = learning_rate(19, config), learning_rate(20, replace(config, steps=40))
    assert (
        f"learning rate: {was:.2g} at step 20 (cosine over 20 steps); it goes on at {now:.2g} (cosine over 40 steps)"
    ) in done.stderr
    assert [e.learning_rate for e in load_checkpoint(folder).history][-1] == learning_rate(
        39, replace(config, steps=40)
    )


def test_a_run_that_lost_patience_says_so(text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = begun(text_file, folder, "--set=patience=1", "--set=evaluations=50", "--set=learning_rate=1", steps=50)
    assert ended.taken < 50
    refused = segue_train("--resume", folder, "--steps", "+5")
    assert f"{folder} ended at step {ended.taken}, after 1 evaluations without a gain" in refused.stderr
    assert segue_train("--resume", folder, "--set", "patience=0").exit_code == 0
    assert load_checkpoint(folder).taken == 50


def test_what_continuing_needs_can_be_left_out(text_file: Path, tmp_path: Path) -> None:
    wild = ["--set=schedule=constant", "--set=learning_rate=0.3", "--set=output_dropout=0.2", "--set=evaluations=10"]
    begun(text_file, tmp_path, *wild, "--no-keep-state", steps=20)
    assert train_state_files(tmp_path) == []
    refused = segue_train("--resume", tmp_path, "--steps", "+3").stderr
    assert f"holds nothing to resume: its train state was not kept; segue train TEXT --from {tmp_path}" in refused
    assert load_run(tmp_path).sentence == ""
    with pytest.raises(ConfigurationError, match="only the kept weights: leave --weights out"):
        load_run(tmp_path, "latest")


def test_what_the_newest_state_says_is_the_run_whatever_the_checkpoint_beside_it(
    text_file: Path, tmp_path: Path
) -> None:
    """A finished run that was continued and stopped, and one that replaces another and was stopped."""
    folder = tmp_path / "run"
    begun(text_file, folder, "--set=evaluations=2", steps=20)
    assert load_run(folder).sentence == ""
    assert load_run(folder, "latest").checkpoint.steps == 20
    stop_after(25, resume_run(folder, None, None, (), 20))
    assert load_run(folder).sentence.endswith("the run stopped at step 25 of 40")
    assert load_checkpoint(folder).taken == 20
    finished = segue_train("--resume", folder)
    assert finished.exit_code == 0
    assert load_run(folder).sentence == ""
    (newest,) = train_state_files(folder)
    newest.write_bytes(b"?")
    damaged = command("evaluate", folder, text_file)
    assert (damaged.exit_code, "delete it, and what the folder held before counts" in damaged.stderr) == (1, True)
    newest.unlink()
    assert load_run(folder).checkpoint.taken == 40


def test_a_stop_while_the_run_validates_says_how_to_finish_it(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, reference = tmp_path / "run", begun(text_file, tmp_path / "reference", steps=9)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with monkeypatch.context() as patch:
            patch.setattr("segue_training.train.run_weights.validate", lambda *_, it=number: signal.raise_signal(it))
            stopped = segue_train(text_file, "--out", folder, *SHAPE, "--steps", 9, "--force")
        assert stopped.exit_code == status
        lines = stopped.stderr.splitlines()
        assert lines[-1] == f"stopped by {number.name} after step 9; continue with: segue train --resume {folder}"
        assert any(line.startswith("validating on ") for line in lines)
    finished = segue_train("--resume", folder)
    assert finished.exit_code == 0, finished.output
    assert "training" not in finished.stderr  # no step, and no evaluation
    assert_same(load_checkpoint(folder), reference)


def test_a_stop_while_the_report_is_written_says_that_the_checkpoint_is(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    arguments = ["train", str(text_file), "--out", str(folder), *SHAPE, "--steps", "3", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("segue_training.cli._write_report", lambda *_: signal.raise_signal(signal.SIGTERM))
        stopped = CliRunner().invoke(segue, arguments)
    assert stopped.exit_code == 143
    last = stopped.stderr.splitlines()[-1]
    assert last == (
        f"stopped by SIGTERM before report.html was written; the checkpoint {folder} is complete; "
        f"to write the report: segue train --resume {folder}"
    )
    before = load_checkpoint(folder)
    assert before.taken == 3
    again = CliRunner().invoke(segue, ["train", "--resume", str(folder), "--threads", "1", "--device", "cpu"])
    assert again.exit_code == 0, again.output
    assert (folder / "report.html").is_file()
    assert_same(load_checkpoint(folder), before)


@pytest.mark.parametrize("place", ["save_checkpoint", "show"])
def test_a_stop_after_the_last_step_never_names_a_remedy_that_is_refused(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = tmp_path / "run"
    arguments = ["train", str(text_file), "--out", str(folder), *SHAPE, "--steps", "3", "--device", "cpu"]
    at = {"save_checkpoint": "segue_training.train.checkpoint", "show": "segue_training.reports.console"}[place]
    original = getattr(import_module(at), place)

    def stop(*given: object) -> None:
        original(*given)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(f"{at}.{place}", stop)
        stopped = CliRunner().invoke(segue, arguments)
    assert stopped.exit_code == 130
    last = stopped.stderr.splitlines()[-1]
    if place == "show":
        assert last == f"stopped by SIGINT; the checkpoint {folder} is complete"
        return
    assert "is complete; to write the report: segue train --resume" in last
    again = CliRunner().invoke(segue, ["train", "--resume", str(folder), "--threads", "1", "--device", "cpu"])
    assert again.exit_code == 0, again.output


@pytest.fixture
def base(text_file: Path, tmp_path: Path) -> Path:
    begun(text_file, tmp_path / "base", "--set=evaluations=3", steps=30)
    return tmp_path / "base"


@pytest.fixture
def dogs(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "dogs.txt"
    path.write_text(text.replace("purred", "sleptZ").replace("cat", "tac"))
    return path


def test_fine_tuning_begins_with_exactly_the_validation_loss_of_its_base(
    base: Path, text_file: Path, tmp_path: Path
) -> None:
    done = segue_train(text_file, "--from", base, "--out", tmp_path / "same", "--steps", 2)
    assert done.exit_code == 0, done.output
    before = load_checkpoint(base)
    best = min(e.validation for e in before.history)
    record = read_record(tmp_path / "same")
    assert record is not None
    assert record[1].start == best
    assert f"validation {best:.3f} before the first step" in done.stderr


def test_fine_tuning_keeps_what_comes_with_the_weights_and_records_them(base: Path, dogs: Path, tmp_path: Path) -> None:
    options = ["--from", base, "--out", tmp_path / "tuned", "--steps", 40]
    refused = segue_train(dogs, *options)
    assert refused.exit_code == 2
    unknown, text = dogs.read_text().count("Z"), dogs.read_text()
    assert f"{unknown} of {len(text):,} characters" in refused.stderr
    remedy = refused.stderr.split("with ")[-1].split()
    assert remedy[0] == "--allow-unknown"
    done = segue_train(dogs, *options, *remedy)
    assert done.exit_code == 0, done.output
    assert "are not in the vocabulary of" in done.stderr
    before, tuned = load_checkpoint(base), load_checkpoint(tmp_path / "tuned")
    assert (tuned.model, tuned.vocabulary, tuned.normalization) == (
        before.model,
        before.vocabulary,
        before.normalization,
    )
    (weights,) = base.glob("weights-*")
    assert tuned.base is not None
    assert tuned.base.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (tuned.base.run, tuned.base.corpus, tuned.base.steps) == (str(base), "cats", before.steps)
    assert tuned.corpus.name == "dogs"
    record = read_record(tmp_path / "tuned")
    assert record is not None
    assert record[1].start is not None
    assert min(e.validation for e in tuned.history) < record[1].start


@pytest.mark.parametrize(
    ("setting", "words"),
    [("hidden=32", "hidden=24"), ("layers=2", "layers=1"), ("architecture=gru", "architecture=lstm")],
)
def test_fine_tuning_with_another_architecture_is_refused_by_name(
    base: Path, text_file: Path, tmp_path: Path, setting: str, words: str
) -> None:
    refused = segue_train(text_file, "--from", base, "--out", tmp_path / "tuned", "--set", setting)
    assert refused.exit_code == 2
    assert f"{base} has {words}, which comes with its weights and cannot become" in refused.stderr
    assert not (tmp_path / "tuned").exists()


def test_a_run_is_not_fine_tuned_into_itself(base: Path, text_file: Path) -> None:
    refused = segue_train(text_file, "--from", base, "--out", base, "--force")
    assert (refused.exit_code, "is the run that --from names" in refused.stderr) == (2, True)
    assert train_state_files(base)


def test_a_fine_tuned_run_that_makes_nothing_better_keeps_its_base(base: Path, text_file: Path, tmp_path: Path) -> None:
    options = ["--set=learning_rate=50", "--set=evaluations=4", "--set=warmup=0", "--steps", 4]
    done = segue_train(text_file, "--from", base, "--out", tmp_path / "worse", *options)
    assert done.exit_code == 0, done.output
    assert "kept: the weights that the run began with; none of 4 steps made them better" in done.stdout
    worse, before = load_checkpoint(tmp_path / "worse"), load_checkpoint(base)
    assert worse.steps == 0
    assert torch.equal(worse.weights["output.weight"], before.weights["output.weight"])


def test_a_fine_tuned_run_is_resumed_to_the_same_bits(base: Path, dogs: Path, tmp_path: Path) -> None:
    start = load_start(base, 100)
    config = replace(start.checkpoint.training, steps=24, evaluations=4)
    specs = [begin_run(str(dogs), None, "small", config, tmp_path / name, start=start) for name in ("a", "b")]
    whole = train(specs[0], lambda _: None, ProcessGroup())
    stop_after(13, specs[1])
    base.rename(tmp_path / "gone")  # the state has all that is needed
    resumed = train(resume_run(tmp_path / "b", None, None, ()), lambda _: None, ProcessGroup())
    assert whole is not None
    assert resumed is not None
    assert_same(resumed, whole)
    assert resumed.base == whole.base


def test_a_stopped_run_is_a_base_too(begin: Any, dogs: Path, tmp_path: Path) -> None:
    spec = begin()
    stop_after(25, spec)
    options = ["--out", tmp_path / "tuned", "--steps", 3, "--allow-unknown", 100]
    done = segue_train(dogs, "--from", spec.folder, *options)
    assert done.exit_code == 0, done.output
    assert "the run stopped at step 25 of 60" in done.stderr
    tuned = load_checkpoint(tmp_path / "tuned")
    assert tuned.base is not None
    assert tuned.base.steps == load_run(spec.folder).checkpoint.steps


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["cats.txt", "--steps", "+5"], "--steps +5 adds to a run's steps: give it with --resume RUN"),
        (["cats.txt", "--allow-unknown", 5], "--allow-unknown is about the vocabulary of a run"),
        (["--resume", "run", "--from", "other"], "--from is for a new run"),
        (["cats.txt", "--from", "nowhere"], "nowhere is not a checkpoint"),
        (["cats.txt", "--steps", "many"], "steps is 'many'; it must be a whole number"),
    ],
)
def test_bad_options_are_named(given: list[object], message: str) -> None:
    refused = segue_train(*given)
    assert refused.exit_code in {1, 2}
    assert message in refused.stderr.splitlines()[-1]
