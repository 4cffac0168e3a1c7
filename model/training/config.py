"""Everything that decides a training run besides its data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One training run; all counts of steps are optimiser steps.

    Raises:
        ValueError: a value that describes no run.
    """

    seed: int = 0
    length: int = 34_560  # samples of one training sequence: 48 h at 5 s
    batch: int = 16  # sequences in a step, per process
    pretrain_steps: int = 200  # forecast only; needs no labels
    finetune_steps: int = 1_000  # risk and forecast
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05  # on matrices only, not on A_log, D, biases and norms (as in mamba-ssm)
    clip: float = 1.0  # of the gradient's norm
    risk_loss: str = "focal"  # or "bce"
    focal_gamma: float = 2.0
    focal_alpha: float | None = None  # weight of positive instants, 1 - alpha of the others; None: one each
    risk_weight: float = 100.0  # instants are rarely positive, so the mean risk loss is small
    forecast_weight: float = 0.2  # beside the risk loss
    channel_dropout: float = 0.3  # probability that an optional channel is hidden from a lane while it follows a van
    core_dropout: float = 0.04  # the same of a core channel
    core_only_share: float = 0.25  # of the lanes see no optional channel at all: single dropouts seldom hide all
    sparse_share: float = 0.1  # of the lanes miss each channel, core or not, with probability 1/2, as foreign logs do
    event_share: float = 0.5  # of the sequences come from vans that have an event
    time_aware: bool = True  # False: every sample counts as one nominal interval (an ablation)
    average_decay: float = 0.995  # of the exponential moving average of the weights, which is what is kept
    warmup_samples: int = 60  # of a vehicle's life without loss, and later without alerts
    validate_every: int = 100
    patience: int = 8  # validations without a better risk loss before fine-tuning stops early
    save_every: int = 200  # steps between points to resume from

    def __post_init__(self) -> None:
        for name in ("length", "batch", "finetune_steps", "warmup_steps", "validate_every", "patience", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.pretrain_steps < 0 or self.warmup_samples < 0:
            raise ValueError("pretrain_steps and warmup_samples must not be negative")
        for name in (
            "channel_dropout",
            "core_dropout",
            "core_only_share",
            "sparse_share",
            "event_share",
            "average_decay",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")
        if self.risk_loss not in {"focal", "bce"}:
            raise ValueError(f"risk_loss must be focal or bce, got {self.risk_loss!r}")
        if self.focal_alpha is not None and not 0.0 < self.focal_alpha < 1.0:
            raise ValueError(f"focal_alpha must lie between 0 and 1, got {self.focal_alpha}")

    @property
    def total_steps(self) -> int:
        """Optimiser steps of both stages."""
        return self.pretrain_steps + self.finetune_steps
