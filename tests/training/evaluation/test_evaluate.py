from pathlib import Path

import numpy as np
import pytest
import torch
from segue_training.errors import CorpusError
from segue_training.evaluation import evaluate
from segue_training.evaluation.evaluate import (
    in_documents,
    in_one_piece,
    in_windows,
    nats_in_documents,
    nats_in_rows,
    perplexity,
    validate,
)
from segue_training.models import Architecture, Dropout, LanguageModel, ModelConfig, build_model
from segue_training.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary.from_text("\nabcdefghi")
IDS = np.random.default_rng(2).integers(11, size=157)
LINES = "the\ncat\nsat on a\na\nmat\n"
BYTES = Vocabulary.of_bytes()


def random_model(architecture: Architecture = "lstm", size: int = 11) -> LanguageModel:
    """Weights large enough that the state matters, and dropout, which must not matter."""
    torch.manual_seed(3)
    weight = 0.0 if architecture in ("mlp", "gru-reset-before") else 0.3
    dropout = Dropout() if architecture == "gru-reset-before" else Dropout(0.3, 0.3, 0.3, weight)
    model = build_model(ModelConfig(size, 5, 7, 2, architecture, window=4), dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.train()


def at_once(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """The oracle: ln P of each symbol except the first, in one call from the zero state, in float64."""
    with torch.no_grad():
        logits, *_ = model.eval()(torch.from_numpy(ids.astype(np.int64))[None, :-1], *model.zero_state())
    scores = logits[0].double().log_softmax(1).numpy()
    model.train()
    return scores[np.arange(len(ids) - 1), ids[1:]]


def collected(parts) -> np.ndarray:
    return np.concatenate([scores for scores, _ in parts])


@pytest.mark.parametrize("architecture", ["lstm", "gru", "gru-reset-before", "rnn", "mlp"])
def test_the_figure_is_the_mean_of_the_whole_text_at_once(architecture: Architecture) -> None:
    model = random_model(architecture)
    result = perplexity(model, IDS, VOCABULARY)
    assert result.nats == pytest.approx(-at_once(model, IDS).mean(), rel=1e-5)
    assert (result.characters, result.unknown) == (156, np.count_nonzero(IDS[1:] == 0))


@pytest.mark.parametrize("chunk", [1, 2, 13, 156, 157])
@pytest.mark.parametrize("before", [1, 40])
def test_chunks_do_not_change_the_scores(chunk: int, before: int) -> None:
    model = random_model()
    parts = list(in_one_piece(model, IDS[:before], IDS[before:], chunk))
    assert collected(parts) == pytest.approx(at_once(model, IDS)[before - 1 :], rel=1e-4, abs=1e-5)
    assert np.array_equal(np.concatenate([scored for _, scored in parts]), IDS[before:])


@pytest.mark.parametrize("most", [1, 40, 11 * 70, 11 * 500])
def test_the_logits_in_memory_are_bounded_and_the_bound_changes_no_score(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large vocabulary must not take rows x symbols x vocabulary."""
    model, seen = random_model(), list[int]()
    expected = perplexity(model, IDS, VOCABULARY).nats, nats_in_rows(model, IDS, 5)
    monkeypatch.setattr(evaluate, "MOST_LOGITS", most)
    model.register_forward_hook(lambda _module, _inputs, outputs: seen.append(outputs[0].numel()))
    assert (perplexity(model, IDS, VOCABULARY).nats, nats_in_rows(model, IDS, 5)) == pytest.approx(expected, rel=1e-5)
    assert max(seen) <= max(most, 5 * 11), "at least one symbol of each row is read"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_ids_may_be_mapped_from_a_file(tmp_path: Path, dtype: type) -> None:
    IDS.astype(dtype).tofile(tmp_path / "ids")
    mapped = np.memmap(tmp_path / "ids", dtype, "r")
    model = random_model()
    assert perplexity(model, mapped, VOCABULARY) == perplexity(model, IDS, VOCABULARY)
    assert nats_in_rows(model, mapped, 3) == nats_in_rows(model, IDS, 3)
    assert validate(model, mapped[:50], mapped[50:], VOCABULARY) == validate(model, IDS[:50], IDS[50:], VOCABULARY)


def test_a_long_text_is_never_held_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "CHUNK", 16)
    longest = 0

    class Watched:
        def __init__(self, model: LanguageModel) -> None:
            self.model = model.eval()
            self.zero_state = model.zero_state

        def __call__(self, ids_BT: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
            nonlocal longest
            longest = max(longest, ids_BT.shape[1])
            return self.model(ids_BT, *state)

    nats_in_rows(Watched(random_model()), IDS, 2)
    nats_in_documents(Watched(random_model()), IDS, line_feed=1)
    assert longest == 16


def test_validation_is_scored_from_zero_and_from_the_end_of_the_training_text() -> None:
    model = random_model()
    result = validate(model, IDS[:100], IDS[100:], VOCABULARY)
    assert result.fresh == perplexity(model, IDS[100:], VOCABULARY)
    assert result.carried.nats == pytest.approx(-at_once(model, IDS)[99:].mean(), rel=1e-5)
    assert (result.fresh.characters, result.carried.characters) == (56, 57)


def test_only_the_end_of_the_training_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "WARM_UP", 30)
    model = random_model()
    result = validate(model, IDS[:100], IDS[100:], VOCABULARY)
    assert result.carried.nats == pytest.approx(-at_once(model, IDS[70:])[29:].mean(), rel=1e-5)


def test_without_a_training_text_there_is_nothing_to_carry() -> None:
    result = validate(random_model(), IDS[:0], IDS, VOCABULARY)
    assert result.carried == result.fresh


def test_of_bytes_the_first_code_point_is_read_and_the_others_are_counted() -> None:
    model = random_model(size=257)
    ids = BYTES.encode("你é a𝄞")
    result = perplexity(model, ids.astype(np.uint16), BYTES)
    assert result.characters == 4
    assert result.nats == pytest.approx(-at_once(model, ids)[2:].sum() / 4, rel=1e-5)


def test_documents_are_each_read_from_zero_between_line_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "ROWS", 2)  # one group is padded, and one is smaller
    vocabulary = Vocabulary.from_text(LINES)
    model = random_model(size=len(vocabulary))
    ids = vocabulary.encode(LINES).astype(np.uint8)
    expected = np.concatenate([at_once(model, vocabulary.encode(f"\n{line}\n")) for line in LINES.splitlines()])
    result = perplexity(model, ids, vocabulary, "lines")
    assert result.nats == pytest.approx(-expected.mean(), rel=1e-5)
    assert result.characters == len(LINES)  # every line feed is the end of a document
    assert nats_in_documents(model, ids, int(vocabulary.encode("\n")[0])) == pytest.approx(result.nats)
    scored = np.concatenate([scored for _, scored in in_documents(model, ids, int(vocabulary.encode("\n")[0]))])
    assert sorted(scored) == sorted(ids)
    validation = validate(model, ids, ids, vocabulary, "lines")
    assert validation.fresh == validation.carried == result


@pytest.mark.parametrize("window", [1, 10, 39, 156, 500])
def test_in_windows_the_state_is_thrown_away(window: int) -> None:
    model = random_model()
    parts = list(in_windows(model, IDS, window, rows=3))
    starts = range(0, 156, window)
    expected = np.concatenate([at_once(model, IDS[start : start + window + 1]) for start in starts])
    assert collected(parts).sum() == pytest.approx(expected.sum(), rel=1e-5)
    assert sorted(np.concatenate([scored for _, scored in parts])) == sorted(IDS[1:])


def test_rows_in_parallel_are_a_mean_over_texts_from_zero() -> None:
    model = random_model()
    expected = np.concatenate([at_once(model, row) for row in (IDS[0:53], IDS[52:105], IDS[104:157])])
    assert nats_in_rows(model, IDS, 3) == pytest.approx(-expected.mean(), rel=1e-5)


def test_one_character_leaves_nothing_to_score() -> None:
    with pytest.raises(CorpusError, match="no character to score"):
        perplexity(random_model(), IDS[:1], VOCABULARY)
    with pytest.raises(CorpusError, match="no character to score"):
        perplexity(random_model(size=257), BYTES.encode("𝄞"), BYTES)
