"""Where a run can be watched: a progress bar, the log, and TensorBoard."""

import logging
from pathlib import Path

from rich.progress import Progress as Bars
from torch.utils.tensorboard import SummaryWriter

from model.training.config import TrainingConfig
from model.training.loop import Progress, Scalars

logger = logging.getLogger(__name__)


class Watch:
    """Told about every reported step; `tensorboard --logdir FOLDER` draws the curves."""

    def __init__(self, folder: Path, bars: Bars, config: TrainingConfig) -> None:
        self._writer = SummaryWriter(str(folder))
        self._bars = bars
        self._task = bars.add_task("training", total=config.total_steps)

    def __call__(self, progress: Progress, scalars: Scalars) -> None:
        """Record the scalars of one step."""
        self._bars.update(self._task, completed=progress.step)
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, progress.step)
        self._writer.flush()
        logger.info("step %d %s", progress.step, " ".join(f"{name} {value:.5g}" for name, value in scalars.items()))
