from dataclasses import replace

import pytest
import torch
from checkpoints import checkpoint_of
from segue_training.evaluation.baselines import Baseline
from segue_training.evaluation.evaluate import perplexity
from segue_training.evaluation.sample import sample
from segue_training.models import build_model
from segue_training.recipes import recipe
from segue_training.reports.summary import PASSAGE, SURPRISING, gather
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.checkpoint import Checkpoint
from segue_training.train.trainer import learning_rate

LETTERS = Vocabulary(("<unk>", "\n", " ", *"abcdefgh"))
TEXT = "a bad cab\nfeed a hag\n" * 200


def checkpoint(vocabulary: Vocabulary = LETTERS, **changes: object) -> Checkpoint:
    torch.manual_seed(0)
    config = replace(recipe("small"), hidden=8, embedding=4, steps=100)
    model = build_model(config.model(len(vocabulary)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.7)
    return checkpoint_of(model, vocabulary, config, **changes)


@pytest.mark.parametrize("vocabulary", [LETTERS, Vocabulary.of_bytes()])
def test_the_passage_is_the_beginning_of_the_validation_text_from_the_zero_state(vocabulary: Vocabulary) -> None:
    made = checkpoint(vocabulary)
    report = gather(made, vocabulary.encode(TEXT), ())
    expected = perplexity(made.build_model(), vocabulary.encode(TEXT[:PASSAGE]), vocabulary)
    assert "".join(s.character for s in report.passage) == TEXT[1:PASSAGE]
    mean = sum(s.nats for s in report.passage) / len(report.passage)
    assert mean == pytest.approx(expected.nats, rel=1e-5)


def test_the_most_surprising_characters_of_the_passage_are_listed_with_what_stands_before_them() -> None:
    report = gather(checkpoint(), LETTERS.encode(TEXT), ())
    nats = [s.surprisal.nats for s in report.surprises]
    assert nats == sorted((s.nats for s in report.passage), reverse=True)[:SURPRISING]
    shown = "".join(s.character for s in report.passage)
    for surprise in report.surprises:
        assert report.passage[surprise.index] is surprise.surprisal
        assert shown[: surprise.index].endswith(surprise.context)
        assert len(surprise.context) == min(surprise.index, 40)


def test_the_context_of_a_document_is_that_document() -> None:
    report = gather(checkpoint(documents="lines"), LETTERS.encode(TEXT), ())
    lines = ("a bad cab\n", "feed a hag\n")
    assert all(any(line.startswith(s.context + s.surprisal.character) for line in lines) for s in report.surprises)
    assert "".join(s.character for s in report.passage).endswith("\n")


def test_samples_are_the_models_at_three_temperatures() -> None:
    made = checkpoint()
    samples = gather(made, LETTERS.encode(TEXT), ()).samples
    assert [s.temperature for s in samples] == [0.5, 0.8, 1.0]
    for drawn in samples:
        temperature = drawn.temperature
        assert drawn.text == sample(made.build_model(), LETTERS, "\n", length=30, temperature=temperature)


def test_settings_that_differ_from_the_recipe_are_told_apart() -> None:
    settings = gather(checkpoint(), LETTERS.encode(TEXT), ()).settings
    assert {s.name: (s.value, s.usual) for s in settings if s.usual is not None} == {
        "hidden": ("8", "96"),
        "embedding": ("4", "32"),
        "steps": ("100", "300"),
    }
    foreign = gather(checkpoint(recipe="of another version"), LETTERS.encode(TEXT), ()).settings
    assert not any(s.usual for s in foreign)


def test_the_learning_rate_is_the_schedules_up_to_the_last_evaluation() -> None:
    made = checkpoint()
    rates = gather(made, LETTERS.encode(TEXT), ()).learning_rates
    assert rates == tuple((step, learning_rate(step - 1, made.training)) for step in range(1, 61))
    assert gather(checkpoint(history=()), LETTERS.encode(TEXT), ()).learning_rates == ()


def test_the_report_of_a_checkpoint_is_a_function_of_it() -> None:
    baselines = (Baseline("gzip", 2.0),)
    one, again = (gather(checkpoint(), LETTERS.encode(TEXT), baselines) for _ in range(2))
    assert one == again
    assert one.baselines == baselines
    assert one.parameters == sum(w.numel() for w in checkpoint().weights.values())
