"""Recipes: named functions that return a training configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Final, Literal

from segue_training.errors import ConfigurationError, did_you_mean
from segue_training.models import Architecture, Dropout, ModelConfig
from segue_training.settings import Range, check_ranges
from segue_training.text.vocabulary import Alphabet, Documents


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides how a model is trained, except the text.

    A step is one update of the weights from `batch` rows of `time` symbols.
    """

    # The model.
    hidden: Annotated[int, Range(1, 2**14)]
    embedding: Annotated[int, Range(0, 2**16)]
    """Width of a symbol's vector; 0: one-hot vectors, not trained."""
    layers: Annotated[int, Range(1, 16)]

    # The steps.
    steps: Annotated[int, Range(1, 10**9)]
    batch: Annotated[int, Range(1, 2**14)]
    time: Annotated[int, Range(1, 2**14)]
    """Symbols through which gradients flow back; the state is carried on."""
    learning_rate: Annotated[float, Range(1e-9, 100)]
    optimizer: Literal["adamw", "sgd"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Annotated[int, Range(0, 10**9)] = 100
    """Steps over which the learning rate rises from 0."""
    weight_decay: Annotated[float, Range(0, 10)] = 0.01
    clip: Annotated[float, Range(1e-9, 1e9)] = 1.0
    """Maximum norm of the gradient over all weights."""

    # More of the model.
    architecture: Architecture = "lstm"
    implementation: Literal["fused", "scratch"] = "fused"
    """PyTorch's kernels, or the equations tensor by tensor: the same function and the same checkpoint."""
    window: Annotated[int, Range(1, 2**10)] = 8
    """Symbols that an MLP sees."""
    forget_bias: Annotated[float, Range(-10, 10)] = 1.0
    initialization: Literal["pytorch", "normal"] = "pytorch"
    """PyTorch's own, or N(0, 0.01^2) weights with zero biases, as in d2l's models from scratch."""

    # The text.
    normalization: Literal["line-feeds", "nfc", "letters"] = "line-feeds"
    preparation: Literal["none", "d2l-zh", "d2l-en"] = "none"
    """How d2l's two editions read The Time Machine; requires the normalization "letters"."""
    alphabet: Alphabet = "characters"
    minimum_count: Annotated[int, Range(1, 2**31)] = 1
    """Characters that are rarer in the training text are read as `<unk>`."""
    documents: Documents = "none"
    """"lines": each line is a separate text, read from the zero state and enclosed by line feeds."""
    max_tokens: Annotated[int, Range(0, 2**40)] = 0
    """Symbols of the training text to use, from its beginning; 0: all."""
    max_validation_tokens: Annotated[int, Range(2, 2**40)] = 1_000_000
    """Symbols of the validation text to use, from its beginning; scoring that many takes about a minute."""
    partition: Literal["stream", "sequential", "random"] = "stream"
    """How an epoch is cut into minibatches; see `batches`."""

    # Regularization.
    input_dropout: Annotated[float, Range(0, 0.99)] = 0.0
    layer_dropout: Annotated[float, Range(0, 0.99)] = 0.0
    output_dropout: Annotated[float, Range(0, 0.99)] = 0.0
    weight_dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """Of the recurrent weights."""
    reset_rate: Annotated[float, Range(0, 1)] = 0.02
    """Probability that a row starts a step from the zero state, as every served text does."""
    unknown_rate: Annotated[float, Range(0, 0.5)] = 1e-3
    """Probability that a character is replaced by `<unk>`, which otherwise would not occur in training."""

    # The run.
    evaluations: Annotated[int, Range(1, 10**6)] = 8
    """How often the model is scored on validation text."""
    keep: Literal["best", "last"] = "best"
    """Which weights become the checkpoint: those with the best validation loss, or the last."""
    patience: Annotated[int, Range(0, 10**6)] = 0
    """Evaluations in a row without improvement after which training stops; 0: never."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the forward pass; weights stay float32. The shorter types are faster on a GPU."""
    tf32: Literal["no", "yes"] = "no"
    """Whether float32 products may be rounded to TF32, 10 bits of mantissa, which a GPU multiplies faster."""
    deterministic: Literal["no", "yes"] = "no"
    """Whether to use only algorithms that give the same bits each time on the same GPU; a CPU's always do."""
    compile: Literal["no", "yes"] = "no"
    """Whether to use torch.compile."""
    capture: Literal["auto", "no", "yes"] = "auto"
    """Whether to replay each step as a CUDA graph; "auto": on a GPU."""
    seed: Annotated[int, Range(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.preparation != "none" and self.normalization != "letters":
            raise ConfigurationError(
                f"preparation is {self.preparation!r}, which needs normalization 'letters', not {self.normalization!r}"
            )
        if self.documents == "lines" and self.partition != "stream":
            raise ConfigurationError(
                f"partition is {self.partition!r}, which would cut the lines that documents='lines' reads whole; "
                "leave it out"
            )

    def model(self, vocabulary_size: int) -> ModelConfig:
        """Return the shape of the model for a vocabulary."""
        embedding = self.embedding or vocabulary_size
        return ModelConfig(vocabulary_size, embedding, self.hidden, self.layers, self.architecture, self.window)

    @property
    def dropout(self) -> Dropout:
        """The dropout rates of the model."""
        return Dropout(self.input_dropout, self.layer_dropout, self.output_dropout, self.weight_dropout)

    @property
    def shown_unknown(self) -> float:
        """The `unknown_rate`, or 0 for bytes, which are all known."""
        return self.unknown_rate if self.alphabet == "characters" else 0.0

    @property
    def least_training_symbols(self) -> int:
        """The length of a training text that fills one step from any offset."""
        return self.batch * self.time + self.time + 1


CHANGEABLE: Final = frozenset(
    (
        *("steps", "learning_rate", "schedule", "warmup", "weight_decay", "clip", "reset_rate", "unknown_rate"),
        *("input_dropout", "layer_dropout", "output_dropout", "weight_dropout"),
        *("evaluations", "keep", "patience", "precision", "tf32", "deterministic"),
        *("compile", "capture"),
    )
)
"""Settings that may change when a run is resumed; the others fix the shapes of its weights, or its text."""


def check_resumable(before: TrainingConfig, after: TrainingConfig) -> None:
    """Raise ConfigurationError if a run that began with `before` cannot continue with `after`."""
    for setting in fields(TrainingConfig):
        old, new = getattr(before, setting.name), getattr(after, setting.name)
        if old != new and setting.name not in CHANGEABLE:
            raise ConfigurationError(
                f"the run began with {setting.name}={old}, which cannot become {new}: "
                "leave it out, or start a new run with another --out"
            )


def quick() -> TrainingConfig:
    """Train one layer in about three minutes on two CPU cores.

    An embedding as wide as the alphabet, not as the layer, halves the work of a step, which allows many small batches
    at a high learning rate.
    """
    return TrainingConfig(
        hidden=320, embedding=64, layers=1, steps=3500, batch=16, time=64, learning_rate=8e-3, output_dropout=0.1
    )


def best() -> TrainingConfig:
    """Train for half an hour on two CPU cores, as well as a megabyte of text allows.

    One wide layer: two learn too slowly for the time. Dropout of 0.4 on recurrent weights and output prevents
    memorization over the fourteen epochs.
    """
    return replace(
        quick(),
        hidden=512,
        steps=14_000,
        learning_rate=6e-3,
        output_dropout=0.4,
        weight_dropout=0.4,
        evaluations=20,
    )


def best_gpu() -> TrainingConfig:
    """Train three wide layers for half an hour on a GPU. Not tuned on one yet."""
    return replace(
        best(),
        hidden=1024,
        embedding=128,
        layers=3,
        steps=20_000,
        batch=64,
        time=128,
        learning_rate=2e-3,
        warmup=500,
        layer_dropout=0.3,
        output_dropout=0.4,
        weight_dropout=0.5,
        evaluations=40,
    )


def small() -> TrainingConfig:
    """Train a tiny model in a few seconds, to try the tools."""
    return TrainingConfig(
        hidden=96, embedding=32, layers=1, steps=300, batch=16, time=32, learning_rate=1e-2, warmup=20
    )


def d2l_lstm() -> TrainingConfig:
    """Train d2l's "Concise Implementation" of the LSTM: one-hot input, 256 units, 500 epochs of plain SGD.

    As there, the model memorizes 10,000 letters; unlike there, it is then scored on unseen text.
    """
    return TrainingConfig(
        hidden=256,
        embedding=0,
        layers=1,
        steps=4000,
        batch=32,
        time=35,
        learning_rate=1.0,
        optimizer="sgd",
        schedule="constant",
        warmup=0,
        weight_decay=0.0,
        forget_bias=0.0,
        normalization="letters",
        preparation="d2l-zh",
        max_tokens=10_000,
        partition="sequential",
        reset_rate=0.0,
        unknown_rate=0.0,
        keep="last",
    )


def d2l_lstm_scratch() -> TrainingConfig:
    """Train d2l's LSTM "from scratch"."""
    return replace(d2l_lstm(), implementation="scratch", initialization="normal")


def d2l_deep_lstm() -> TrainingConfig:
    """Train d2l's "Deep Recurrent Neural Networks": two layers, twice the learning rate."""
    return replace(d2l_lstm(), layers=2, learning_rate=2.0)


def d2l_gru() -> TrainingConfig:
    """Train d2l's "Concise Implementation" of the GRU."""
    return replace(d2l_lstm(), architecture="gru")


def d2l_gru_scratch() -> TrainingConfig:
    """Train d2l's GRU "from scratch", whose reset gate acts before the matrix product."""
    return replace(d2l_lstm_scratch(), architecture="gru-reset-before")


def d2l_rnn() -> TrainingConfig:
    """Train d2l's "Concise Implementation" of the RNN."""
    return replace(d2l_lstm(), architecture="rnn")


def d2l_rnn_scratch() -> TrainingConfig:
    """Train d2l's RNN "from scratch", the one model of the chapters with 512 units."""
    return replace(d2l_lstm_scratch(), architecture="rnn", hidden=512)


def d2l_mlp() -> TrainingConfig:
    """Train a model without a hidden state on the same text, the contrast that d2l describes."""
    return replace(d2l_lstm(), architecture="mlp", window=8)


RECIPES: Final[Mapping[str, Callable[[], TrainingConfig]]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(quick, small, best, best_gpu, d2l_mlp, d2l_rnn_scratch, d2l_rnn),
        *(d2l_gru_scratch, d2l_gru, d2l_lstm_scratch, d2l_lstm, d2l_deep_lstm),
    )
}


def recipe(name: str) -> TrainingConfig:
    """Return the configuration of the recipe `name`. Raises ConfigurationError."""
    if name not in RECIPES:
        suggestion = did_you_mean(name, RECIPES)
        raise ConfigurationError(f"no recipe is called {name!r}{suggestion} (recipes: {', '.join(RECIPES)})")
    return RECIPES[name]()
