"""One model, trained on whole sentences.

Every sentence is read from the zero state, and each of its characters is to be predicted, the verb's being one
among many. Nothing is cut off from its gradient: what is lost on the way, the model loses.

Shapes: B sentences, T characters of each, V vocabulary.
"""

import math
import random
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
from segue_training.train.trainer import cosine, warmed

WIDEST: Final = 2**14


def train(architecture: Architecture, curriculum: Curriculum, seed: int, config: AgreementConfig) -> LanguageModel:
    """Return a trained model.

    Models of different architectures see the same sentences in the same order. PyTorch's global random state is
    left as it was. Raises Diverged for a loss that is not finite.
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
    """Return up to which distance the sentences of step 0, 1, ... are drawn."""
    if curriculum == "all at once":
        return config.longest
    grown = min(1.0, step / (config.growth * config.steps))
    return SHORTEST * math.pow(config.longest / SHORTEST, grown)


def draw_distance(longest: float, chance: random.Random) -> int:
    """Draw a distance up to `longest`, each octave as often as any other."""
    while True:
        distance = int(math.exp(chance.uniform(math.log(SHORTEST), math.log(int(longest) + 1))))
        if is_distance(distance):
            return distance


def learning_rate(step: int, config: AgreementConfig) -> float:
    """Return the rate of step 0, 1, ...: a linear warm-up on a cosine that ends at 0."""
    return warmed(step, config.learning_rate, config.warmup) * cosine(step, config.steps)


def shape(architecture: Architecture, config: AgreementConfig) -> ModelConfig:
    """Return the shape of the widest model that has no more than `config.parameters`."""
    hidden, too_wide = 1, WIDEST
    while too_wide - hidden > 1:
        middle = (hidden + too_wide) // 2
        fits = _count(_shape(architecture, middle, config)) <= config.parameters
        hidden, too_wide = (middle, too_wide) if fits else (hidden, middle)
    return _shape(architecture, hidden, config)


def parameters(model: LanguageModel) -> int:
    """Return how many weights the model has."""
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
    """Lower the mean negative log-probability of the sentences' characters, once."""
    logits_BTV, *_ = model(ids_BT[:, :-1], *model.zero_state(len(ids_BT)))
    loss = cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), ignore_index=UNKNOWN_ID)
    if not math.isfinite(loss.item()):
        raise Diverged(f"the loss is {loss.item()}: set a learning_rate below {optimizer.param_groups[0]['lr']:.2g}")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
