"""The model that is attacked: of random weights, and as large as one that was trained in minutes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from segue_export.artifact import write_artifact
from segue_export.graphs.portable import portable_graph
from segue_export.manifest import FORMAT_VERSION, CorpusDescription, Manifest
from segue_training.models import ModelConfig, build_model
from segue_training.text.vocabulary import Vocabulary

_USUAL: Final = ("<unk>", *" etaoinshrdlcumwfgypbvkjxqz.,;:!?'\n", *"THEACOBINSW", "é", "𝄞")


def write_attacked_model(models: Path, hidden: int = 320, more_characters: int = 0) -> None:
    """Write the model `attacked` into a folder of models; its alphabet has so many more characters than usual."""
    vocabulary = Vocabulary((*_USUAL, *(chr(0x4E00 + number) for number in range(more_characters))))
    torch.manual_seed(1)
    module = build_model(ModelConfig(len(vocabulary), embedding=64, hidden=hidden, layers=1))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.4)  # lively text
    corpus = CorpusDescription("none", "0" * 64, 1)
    manifest = Manifest(
        FORMAT_VERSION,
        "lstm",
        1,
        hidden,
        vocabulary.characters,
        "line-feeds",
        "\n",
        corpus,
        4.0,
        "none",
        {},
        {},
    )
    weights = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    write_artifact(models, "attacked", manifest, portable_graph(manifest, weights))


@contextmanager
def other_models(hidden: int, more_characters: int = 0) -> Iterator[Path]:
    """Have a folder with a model of another size for the length of the block."""
    with tempfile.TemporaryDirectory() as folder:
        write_attacked_model(Path(folder), hidden, more_characters)
        yield Path(folder)
