"""`segue evaluate` on checkpoints and their artifacts."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from corpora import corpus_of
from segue_export.checks.evaluation import Subject, evaluate, load_subject
from segue_export.cli import evaluate as evaluate_command
from segue_export.errors import ModelsNotFound
from segue_export.export import export_checkpoint
from segue_training.data.encoding import EncodedCorpus, Reading, encode_with
from segue_training.errors import ConfigurationError, CorpusError
from segue_training.evaluation.evaluate import perplexity
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint, CorpusRecord, save_checkpoint

OWN = "the cat sat on the mat, é and 你.\nThe dog did not.\n" * 40
OTHER = "a dog sat on a cat; 𝄞!\n" * 20


@dataclass(frozen=True)
class Pair:
    """A model as a checkpoint and as an artifact."""

    checkpoint: Path
    artifact: Path

    def both(self) -> tuple[Subject, Subject]:
        return load_subject(self.checkpoint), load_subject(self.artifact, threads=1)


@pytest.fixture(scope="module")
def make_pair(make_checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Return a function that writes a model of corpus OWN as a checkpoint and as an artifact."""

    def make(*shape: int, **settings: object) -> Pair:
        folder = tmp_path_factory.mktemp("pair")
        checkpoint: Checkpoint = make_checkpoint(*shape, seed=4, **settings)
        reading = Reading(checkpoint.normalization, documents=checkpoint.documents)
        own = encode_with(corpus_of(OWN, name="own"), checkpoint.vocabulary, reading)
        checkpoint = replace(checkpoint, corpus=CorpusRecord("own", own.sha256, own.characters))
        save_checkpoint(folder / "run", checkpoint)
        return Pair(folder / "run", export_checkpoint(folder / "run", folder / "models", "own").folder)

    return make


@pytest.fixture(scope="module")
def pair(make_pair) -> Pair:
    return make_pair(2, 24)


def read(text: str, subject: Subject) -> EncodedCorpus:
    return encode_with(corpus_of(text, name="text"), subject.vocabulary, subject.reading)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"architecture": "gru"},
        {"architecture": "gru-reset-before"},
        {"architecture": "rnn"},
        {"vocabulary": Vocabulary.of_bytes()},
        {"documents": "lines"},
    ],
)
@pytest.mark.parametrize("text", [OWN, OTHER])
def test_a_checkpoint_and_its_artifact_give_the_same_figures(make_pair, settings: dict, text: str) -> None:
    of_torch, of_onnx = (evaluate(subject, read(text, subject)) for subject in make_pair(1, 12, **settings).both())
    assert of_onnx.part == of_torch.part
    assert of_onnx.baselines == of_torch.baselines
    for name in ("fresh", "carried", "windows"):
        ours, theirs = getattr(of_onnx, name), getattr(of_torch, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.nats == pytest.approx(theirs.nats, abs=1e-5)
            assert (ours.characters, ours.unknown) == (theirs.characters, theirs.unknown)


def test_of_its_own_corpus_only_what_training_held_out_is_scored(pair: Pair) -> None:
    subject = load_subject(pair.checkpoint)
    result = evaluate(subject, read(OWN, subject))
    held_out = OWN[len(OWN) * 9 // 10 :]
    assert result.part == "validation"
    assert result.fresh == perplexity(subject.reader, subject.vocabulary.encode(held_out), subject.vocabulary)
    assert result.carried is not None
    assert (result.fresh.characters, result.carried.characters) == (len(held_out) - 1, len(held_out))
    figures = {baseline.name: baseline.nats for baseline in result.baselines}
    assert figures["8-gram"] < 0.1 < figures["1-gram"]  # the first part determines the rest


def test_another_text_is_scored_whole_and_nothing_is_carried_into_it(pair: Pair) -> None:
    subject = load_subject(pair.checkpoint)
    result = evaluate(subject, read(OTHER, subject))
    assert (result.part, result.carried, result.dynamic) == ("whole", None, None)
    assert (result.fresh.characters, result.fresh.unknown) == (len(OTHER) - 1, 0)
    assert result.windows is not None
    assert (result.windows.characters, result.windows.nats) != (0, result.fresh.nats)
    assert [baseline.name for baseline in result.baselines] == ["uniform", "gzip -9", "xz -9e"]


def test_windows_of_a_short_text_are_the_text_itself(pair: Pair) -> None:
    subject = load_subject(pair.checkpoint)
    result = evaluate(subject, read(OTHER[:100], subject))
    assert result.windows is not None
    assert result.windows.nats == pytest.approx(result.fresh.nats, rel=1e-6)


def test_baselines_learn_from_a_training_text_but_never_from_what_they_are_scored_on(pair: Pair) -> None:
    subject = load_subject(pair.checkpoint)
    other, own = read(OTHER, subject), read(OWN, subject)
    learned = {b.name: b.nats for b in evaluate(subject, other, read(OTHER * 2, subject)).baselines}
    assert learned["6-gram"] < 0.1
    from_own = evaluate(subject, other, own)
    assert from_own.baselines == evaluate(subject, other, read(OWN[: len(OWN) * 9 // 10], subject)).baselines
    assert evaluate(subject, own, own).baselines == evaluate(subject, own).baselines
    unread = replace(subject, reader=None)
    with pytest.raises(ConfigurationError, match="is TEXT itself"):  # before any work
        evaluate(unread, other, other)


def test_documents_have_no_state_to_carry(make_pair) -> None:
    subject = load_subject(make_pair(1, 12, documents="lines").checkpoint)
    result = evaluate(subject, read(OTHER, subject), dynamic=True)
    assert result.carried is result.windows is None
    assert result.fresh.characters == len(OTHER)
    assert result.dynamic is not None
    assert result.dynamic.nats < result.fresh.nats - 0.05


def test_only_a_checkpoint_can_go_on_learning(pair: Pair) -> None:
    of_torch, of_onnx = pair.both()
    result = evaluate(of_torch, read(OTHER, of_torch), dynamic=True)
    assert result.dynamic is not None
    assert result.dynamic.nats < result.fresh.nats - 0.05
    with pytest.raises(ConfigurationError, match="an artifact cannot learn, so --dynamic needs a checkpoint"):
        evaluate(of_onnx, read(OTHER, of_onnx), dynamic=True)


def test_a_folder_that_is_neither_is_named(tmp_path: Path, pair: Pair) -> None:
    with pytest.raises(ModelsNotFound, match=r"neither a checkpoint \(it has no checkpoint.json\) nor an artifact"):
        load_subject(tmp_path)
    with pytest.raises(ModelsNotFound, match="models/NAME/VERSION"):
        load_subject(pair.artifact.parent)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Return a function that runs the command in the folder of own.txt and other.txt."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    Path("own.txt").write_text(OWN, encoding="utf-8")
    Path("other.txt").write_text(OTHER, encoding="utf-8")
    yield lambda *arguments, **settings: CliRunner().invoke(evaluate_command, [*map(str, arguments)], **settings)
    torch.set_num_threads(threads)


def test_a_script_reads_every_figure(run, pair: Pair) -> None:
    found = json.loads(run(pair.checkpoint, "own.txt", "--json", "--dynamic", "--threads", 1).stdout)
    subject = load_subject(pair.checkpoint)
    expected = evaluate(subject, read(OWN, subject), dynamic=True)
    assert (found["model"], found["text"], found["part"]) == (str(pair.checkpoint), "own.txt", "validation")
    assert found["nats"] == pytest.approx(expected.fresh.nats)
    assert found["perplexity"] == pytest.approx(expected.fresh.perplexity)
    assert found["carried"]["bits"] == pytest.approx(expected.carried.bits)
    assert found["every_128"]["characters"] == found["characters"] == expected.fresh.characters
    assert found["dynamic"]["nats"] == pytest.approx(expected.dynamic.nats)
    assert found["baselines"]["7-gram"]["nats"] == pytest.approx(expected.baselines[7].nats)


def test_a_person_sees_a_table(run, pair: Pair) -> None:
    own = run(pair.artifact, "own.txt").stdout
    for name in ("own.txt (validation)", "fresh state", "carried state", "zeroed every 128", "8-gram", "xz -9e"):
        assert name in own
    assert "learning" not in own
    assert "left out" not in own
    other = run(pair.artifact, "other.txt").stdout
    assert "n-gram models are omitted: give a text for them to learn from with --training-text SOURCE" in other
    assert "carried state" not in other
    learned = run(pair.artifact, "other.txt", "--training-text", "own.txt").stdout
    assert "8-gram" in learned
    assert "left out" not in learned


def test_standard_input_and_json_lines_are_read(run, pair: Pair) -> None:
    piped = json.loads(run(pair.artifact, "-", "--json", input=OTHER).stdout)
    Path("other.jsonl").write_text("".join(json.dumps({"t": line}) + "\n" for line in OTHER.splitlines()))
    lines = json.loads(run(pair.artifact, "other.jsonl", "--field", "t", "--json").stdout)
    assert lines["nats"] == piped["nats"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["{artifact}", "other.txt", "--dynamic"], ConfigurationError, "--dynamic needs a checkpoint"),
        (["{checkpoint}", "nowhere.txt"], CorpusError, "'nowhere.txt'"),
        (["{checkpoint}", "-"], CorpusError, "no character to score"),
        (["nowhere", "other.txt"], ModelsNotFound, "nowhere is neither"),
    ],
)
def test_bad_input_is_one_line(run, pair: Pair, arguments: list[str], error: type, words: str) -> None:
    names = {"artifact": pair.artifact, "checkpoint": pair.checkpoint}
    done = run(*(argument.format(**names) for argument in arguments), input="a")
    assert type(done.exception) is error
    assert words in str(done.exception)
    assert error.exit_code == 2
    assert "\n" not in str(done.exception)


def test_two_models_are_not_taken_for_a_model_and_a_text(run, pair: Pair) -> None:
    for other in (pair.checkpoint, pair.artifact):
        done = run(pair.checkpoint, other)
        assert type(done.exception) is ConfigurationError
        assert f"{other} is a model, not a text: evaluate scores one MODEL on one TEXT" in str(done.exception)
    with pytest.raises(ConfigurationError, match="an artifact has one: leave it out"):
        load_subject(pair.artifact, choice="best")
