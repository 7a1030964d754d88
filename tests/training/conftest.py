import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from corpora import corpus_of
from segue_training.data.corpus import Corpus
from segue_training.models import LanguageModel, ModelConfig, Recurrent
from segue_training.recipes import TrainingConfig


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models are fastest on one thread; commands may change the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text() -> str:
    """About 6,000 characters of a language that a model learns in seconds."""
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "purred", "loudly"]
    chosen = random.Random(7).choices(words, k=1400)
    return " ".join(chosen).replace("loudly ", "loudly\n")


@pytest.fixture
def corpus(text: str) -> Corpus:
    return corpus_of(text, name="cats")


@pytest.fixture
def text_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cats.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def tiny() -> TrainingConfig:
    return TrainingConfig(
        hidden=32,
        embedding=8,
        layers=1,
        steps=60,
        batch=8,
        time=16,
        learning_rate=2e-2,
        warmup=5,
        evaluations=3,
    )


@pytest.fixture
def model() -> LanguageModel:
    """Two layers with weights large enough that every gate matters."""
    torch.manual_seed(3)
    model = Recurrent(ModelConfig(vocabulary_size=11, embedding=5, hidden=7, layers=2)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.5)
    return model
