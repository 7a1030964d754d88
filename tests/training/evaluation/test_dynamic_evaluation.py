import numpy as np
import pytest
import torch
from segue_training.errors import ConfigurationError
from segue_training.evaluation.dynamic_evaluation import Adaptation, adaptive_perplexity
from segue_training.evaluation.evaluate import perplexity
from segue_training.models import Architecture, LanguageModel, ModelConfig, build_model
from segue_training.text.vocabulary import Vocabulary
from torch.nn.functional import cross_entropy

TEXT = "the cat sat on the mat. é\n" * 30
VOCABULARY = Vocabulary.from_text(TEXT)
IDS = VOCABULARY.encode(TEXT).astype(np.uint8)
FAST = Adaptation(rate=0.02, decay=0.001, window=20)


def untrained(architecture: Architecture = "lstm", size: int = len(VOCABULARY)) -> LanguageModel:
    torch.manual_seed(1)
    return build_model(ModelConfig(size, 8, 16, 1, architecture, window=4))


@pytest.mark.parametrize("architecture", ["lstm", "gru", "gru-reset-before", "rnn", "mlp"])
def test_a_model_that_learns_on_the_way_does_better(architecture: Architecture) -> None:
    model = untrained(architecture)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    static, adaptive = perplexity(model, IDS, VOCABULARY), adaptive_perplexity(model, IDS, VOCABULARY, adaptation=FAST)
    assert adaptive.nats < static.nats - 0.3
    assert (adaptive.characters, adaptive.unknown) == (static.characters, static.unknown)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("vocabulary", [VOCABULARY, Vocabulary.of_bytes()])
@pytest.mark.parametrize("documents", ["none", "lines"])
def test_a_model_that_does_not_learn_is_static(vocabulary: Vocabulary, documents: str) -> None:
    model, ids = untrained(size=len(vocabulary)), vocabulary.encode("é" + TEXT[:200].rpartition("\n")[0] + "\n")
    expected = perplexity(model, ids, vocabulary, documents)
    found = adaptive_perplexity(model, ids, vocabulary, documents, Adaptation(rate=0, window=7))
    assert found.nats == pytest.approx(expected.nats, rel=1e-5)
    assert (found.characters, found.unknown) == (expected.characters, expected.unknown)


def test_a_window_is_scored_before_it_is_learned_from() -> None:
    model, window = untrained(), 20
    ids = IDS[: window + 1]
    static = perplexity(model, ids, VOCABULARY)
    found = adaptive_perplexity(model, ids, VOCABULARY, adaptation=Adaptation(rate=0.5, window=window))
    assert found.nats == pytest.approx(static.nats, rel=1e-5)


def test_the_steps_are_what_the_equations_say() -> None:
    model, adaptation = untrained("rnn"), Adaptation(rate=0.01, decay=0.25, window=10)
    found = adaptive_perplexity(model, IDS[:31], VOCABULARY, adaptation=adaptation)
    trained = {name: weight.clone() for name, weight in model.state_dict().items()}
    v, state, nats = {name: torch.zeros_like(weight) for name, weight in trained.items()}, model.zero_state(), 0.0
    for step, start in enumerate((0, 10, 20), start=1):
        ids = torch.from_numpy(IDS[start : start + 11].astype(np.int64))
        logits, *after = model(ids[None, :-1], *state)
        loss, state = cross_entropy(logits[0], ids[1:]), tuple(part.detach() for part in after)
        nats += loss.item() / 3
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, w), g in zip(model.named_parameters(), gradients, strict=True):
                v[name] = 0.999 * v[name] + 0.001 * g**2
                moved = w - 0.01 * g / ((v[name] / (1 - 0.999**step)).sqrt() + 1e-8)
                w.copy_(moved + 0.25 * (trained[name] - moved))
    assert found.nats == pytest.approx(nats, rel=1e-5)


def test_documents_begin_from_zero_but_their_lessons_stay() -> None:
    model = untrained()
    first, second = (adaptive_perplexity(model, IDS[: 26 * n], VOCABULARY, "lines", FAST).nats * n for n in (1, 2))
    assert second - first < first
    assert first == pytest.approx(perplexity(model, IDS[:26], VOCABULARY, "lines").nats, abs=0.5)


@pytest.mark.parametrize(("setting", "value"), [("rate", 2.0), ("decay", -0.1), ("window", 0)])
def test_a_setting_out_of_its_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{setting} is {value}"):
        Adaptation(**{setting: value})
