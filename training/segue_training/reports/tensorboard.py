"""A run's logs for TensorBoard: `tensorboard --logdir RUN` shows them while the run continues.

training/nats       per symbol, mean over EVERY steps
validation/nats     per symbol, at each evaluation
learning_rate       every EVERY steps
speed               symbols per second since the previous evaluation
sample              a text by the model, at each evaluation
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from segue_training.errors import ConfigurationError
from segue_training.evaluation.sample import Sampler
from segue_training.recipes import TrainingConfig
from segue_training.text.glyphs import legible
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.schedule import learning_rate
from segue_training.train.train_state import Evaluation
from segue_training.train.trainer import Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVERY: Final = 20
"""Steps whose mean training loss is logged."""

SAMPLED: Final = 500
"""Characters of a sample."""


class TensorBoardReport:
    """Writes logs to a folder. Use as a context manager, and call it with each step's progress.

    `history`: the evaluations of a resumed run; TensorBoard drops what an earlier process logged for the same steps.
    Raises ConfigurationError if tensorboard is not installed.
    """

    def __init__(
        self, folder: Path, config: TrainingConfig, vocabulary: Vocabulary, history: Sequence[Evaluation] = ()
    ) -> None:
        _check_installed()
        self._folder = folder
        self._config = config
        self._sampler = Sampler.of(vocabulary, config.documents)
        self._writer: SummaryWriter | None = None
        self._losses: list[float] = []
        self._previous = (history[-1].symbols, history[-1].seconds) if history else (0, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, progress: Progress) -> None:
        """Log a step."""
        writer = self._open(progress.step)
        self._losses.append(progress.loss)
        if progress.step % EVERY == 0 or progress.evaluation is not None:
            mean = sum(self._losses) / len(self._losses)
            writer.add_scalar("training/nats", mean, progress.step)
            writer.add_scalar("learning_rate", learning_rate(progress.step - 1, self._config), progress.step)
            self._losses.clear()
        if progress.evaluation is not None:
            self._log_evaluation(writer, progress, progress.evaluation)

    def _log_evaluation(self, writer: "SummaryWriter", progress: Progress, now: Evaluation) -> None:
        symbols, seconds = self._previous
        self._previous = now.symbols, now.seconds
        writer.add_scalar("validation/nats", now.validation, now.step)
        if now.seconds > seconds:
            writer.add_scalar("speed", (now.symbols - symbols) / (now.seconds - seconds), now.step)
        text = legible(self._sampler(progress.model, SAMPLED, seed=now.step))
        writer.add_text("sample", _as_code(text), now.step)
        writer.flush()

    def _open(self, step: int) -> "SummaryWriter":
        """Return the writer; when it is created, it purges the logs of `step` and later."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=step)
        return self._writer


def _check_installed() -> None:
    try:
        import torch.utils.tensorboard  # noqa: F401 - checked, not used
    except ImportError:
        raise ConfigurationError(
            "tensorboard is not installed: in segue's checkout, pip install '.[tensorboard]'; "
            "or train without TensorBoard logs"
        ) from None


def _as_code(text: str) -> str:
    """Return `text` as an indented Markdown block, which its content cannot end."""
    return "".join(f"    {line}\n" for line in text.split("\n"))
