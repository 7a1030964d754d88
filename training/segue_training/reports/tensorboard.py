"""A run's logs for TensorBoard: `tensorboard --logdir RUN` draws them while the run goes on.

training/nats             of a symbol, of every few steps' minibatches
validation/nats           of a symbol, after each evaluation
learning_rate             of every few steps
speed                     symbols per second since the evaluation before
sample                    a text that the model writes, after each evaluation
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from segue_training.errors import ConfigurationError
from segue_training.evaluation.sample import Sampler
from segue_training.recipes import TrainingConfig
from segue_training.text.glyphs import legible
from segue_training.text.vocabulary import Vocabulary
from segue_training.train.train_state import Evaluation
from segue_training.train.trainer import Progress, learning_rate

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVERY: Final = 20
"""Steps from one training loss to the next; what is logged is their mean."""

SAMPLED: Final = 500
"""Characters of a sample."""


class TensorBoardReport:
    """Writes logs to a folder. Use as a context manager, and call it with each step's progress.

    `history` holds the evaluations of a run that is resumed; TensorBoard forgets what an earlier process logged of
    the same steps. Raises ConfigurationError where tensorboard is not installed.
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
        self._before = (history[-1].symbols, history[-1].seconds) if history else (0, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def __call__(self, progress: Progress) -> None:
        """Log where the run stands."""
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
        symbols, seconds = self._before
        self._before = now.symbols, now.seconds
        writer.add_scalar("validation/nats", now.validation, now.step)
        if now.seconds > seconds:
            writer.add_scalar("speed", (now.symbols - symbols) / (now.seconds - seconds), now.step)
        text = legible(self._sampler(progress.model, SAMPLED, seed=now.step))
        writer.add_text("sample", _as_code(text), now.step)
        writer.flush()

    def _open(self, step: int) -> "SummaryWriter":
        """Return the writer, which takes back what was logged of `step` and later ones when it is made."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=step)
        return self._writer


def _check_installed() -> None:
    try:
        import torch.utils.tensorboard  # noqa: F401 - asked for, not used
    except ImportError:
        raise ConfigurationError(
            "tensorboard is not installed: pip install 'segue[tensorboard]', or train without TensorBoard logs"
        ) from None


def _as_code(text: str) -> str:
    """Return `text` as Markdown that is shown as it stands: an indented block, which nothing within it can end."""
    return "".join(f"    {line}\n" for line in text.split("\n"))
