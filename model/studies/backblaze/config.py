"""Everything that decides a run besides its data."""

from dataclasses import dataclass, fields

# SMART attributes that are read where a file has them: reallocated, reported uncorrectable, command timeouts, pending and
# offline uncorrectable sectors (5, 187, 188, 197, 198), then errors, wear, age, load and temperature.
ATTRIBUTES = (5, 187, 188, 197, 198, 1, 3, 4, 7, 9, 10, 12, 183, 184, 189, 190, 192, 193, 194, 196, 199)
LOSSES = ("bce", "focal", "weighted focal")
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0  # of the published comparison


@dataclass(frozen=True, slots=True)
class BackblazeConfig:
    """One run. Defaults suit two cores and a few thousand drives; FULL is for a GPU and whole quarters.

    Raises:
        ValueError: a value that describes no run.
    """

    seed: int = 0  # of the choice of drives, folds, initial weights and draws
    horizon_days: int = 7  # a day is positive when the drive fails on it or on one of the six that follow
    drive_model: str | None = None  # one drive model only; None: all together
    healthy: int = 2_000  # drives without a failure that are kept; each takes 16 kB of memory per contender
    cut: float = 0.5  # share of the days that lie before the test period
    folds: int = 5  # of the drives: one is tested, one validates, the rest train, in turn
    negatives: float = 10.0  # training days without a failure ahead for each one with, chosen by k-means
    clusters: int = 20
    shrink_rows: int = 200  # drive-days of the whole fleet that a drive model's normaliser starts with
    d_model: int = 32
    n_layer: int = 2
    d_state: int = 16
    window: int = 14  # days that a network sees
    steps: int = 160
    batch: int = 128  # windows in a step
    learning_rate: float = 3e-3
    validate_every: int = 40
    trees: int = 400
    resamples: int = 1_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in {"seed", "drive_model"} and value <= 0:
                raise ValueError(f"{field.name} must be positive, got {value}")
        if self.cut >= 1:
            raise ValueError(f"cut must be below 1, got {self.cut}")
        if self.folds < 3:
            raise ValueError(f"folds must be at least 3 (test, validation, training), got {self.folds}")


FULL = BackblazeConfig(
    healthy=20_000, clusters=50, d_model=128, n_layer=4, d_state=64, window=60, steps=4_000, batch=256,
    learning_rate=1e-3, validate_every=250, trees=1_500,
)  # fmt: skip
