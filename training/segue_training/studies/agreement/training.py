"""Training one model on whole sentences.

Every sentence is read from the zero state, and all its characters are targets, the verb's among them. Gradients flow
through the whole sentence.

Shapes: B sentences, T characters of each, V vocabulary.
"""

import math
import random
from bisect import bisect_right
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer

from segue_training.errors import Diverged
from segue_training.models import Architecture, LanguageModel, ModelConfig, build_model, initialize
from segue_training.studies.agreement.config import AgreementConfig, Curriculum
from segue_training.studies.agreement.sentences import SHORTEST, VOCABULARY, draw_sentence, encode, is_distance
from segue_training.text.vocabulary import UNKNOWN_ID
from segue_training.train.schedule import cosine, warmed

WIDEST: Final = 2**14


def train(architecture: Architecture, curriculum: Curriculum, seed: int, config: AgreementConfig) -> LanguageModel:
    """Return a trained model. Raises Diverged if a loss is not finite.

    Models of all architectures see the same sentences in the same order. PyTorch's global random state is left
    unchanged.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _new_model(architecture, config)
    optimizer = AdamW(model.parameters(), config.learning_rate, betas=(0.9, 0.99))
    chance = random.Random(f"train {seed}")  # noqa: S311 - no secret
    for step in range(config.steps):
        distance = draw_distance(longest(step, curriculum, config), chance)
        texts = [draw_sentence(distance, chance).text for _ in range(config.batch)]
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        _update(model, optimizer, encode(texts), config.clip)
    return model.eval()


def longest(step: int, curriculum: Curriculum, config: AgreementConfig) -> float:
    """Return the maximum distance of the sentences at step 0, 1, ..."""
    if curriculum == "all at once":
        return config.longest
    grown = min(1.0, step / (config.growth * config.steps))
    return SHORTEST * math.pow(config.longest / SHORTEST, grown)


def draw_distance(longest: float, chance: random.Random) -> int:
    """Draw a distance up to `longest`, all octaves with the same probability."""
    while True:
        distance = int(math.exp(chance.uniform(math.log(SHORTEST), math.log(int(longest) + 1))))
        if is_distance(distance):
            return distance


def learning_rate(step: int, config: AgreementConfig) -> float:
    """Return the learning rate at step 0, 1, ...: a linear warm-up times a cosine that ends at 0."""
    return warmed(step, config.learning_rate, config.warmup) * cosine(step, config.steps)


def shape(architecture: Architecture, config: AgreementConfig) -> ModelConfig:
    """Return the shape of the widest model with at most `config.parameters` weights."""
    widths = range(1, WIDEST)
    fitting = bisect_right(widths, config.parameters, key=lambda width: _count(_shape(architecture, width, config)))
    return _shape(architecture, max(fitting, 1), config)


def parameters(model: LanguageModel) -> int:
    """Return the number of weights."""
    return sum(weight.numel() for weight in model.parameters())


def _new_model(architecture: Architecture, config: AgreementConfig) -> LanguageModel:
    model = build_model(shape(architecture, config))
    initialize(model, "pytorch", config.forget_bias)
    return model


def _shape(architecture: Architecture, hidden: int, config: AgreementConfig) -> ModelConfig:
    return ModelConfig(len(VOCABULARY), config.embedding, hidden, 1, architecture, config.window)


def _count(shape: ModelConfig) -> int:
    with torch.device("meta"):  # nothing is allocated
        return parameters(build_model(shape))


def _update(model: LanguageModel, optimizer: Optimizer, ids_BT: Tensor, clip: float) -> None:
    """Take one step on the mean negative log-probability of the sentences' characters."""
    logits_BTV, *_ = model(ids_BT[:, :-1], *model.zero_state(len(ids_BT)))
    loss = cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), ignore_index=UNKNOWN_ID)
    if not math.isfinite(loss.item()):
        raise Diverged(f"the loss is {loss.item()}: set a learning_rate below {optimizer.param_groups[0]['lr']:.2g}")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
