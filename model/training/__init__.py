"""Training: forecast first, then risk and forecast together, with a label at every instant of whole histories."""

from model.training.config import TrainingConfig
from model.training.loop import Trainer, TrainingDivergedError
from model.training.ranks import Ranks

__all__ = ["Ranks", "Trainer", "TrainingConfig", "TrainingDivergedError"]
