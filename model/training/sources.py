"""What `emberwatch train` learns from: vehicles for training and others, later ones, for validation."""

from pathlib import Path

from model.channels import VAN_SCHEMA
from model.dataset import SimulatedFleet
from model.fleet import FleetConfig
from model.training.own_channels import read_channels
from model.training.own_data import open_fleet, split
from model.training.run import Data

DAY_MS = 86_400_000
TRAINING_START_MS = FleetConfig().start_ms
TRAINING_FAULTY_SHARE = 0.5  # more faults than in life, to have more to learn from; the risk is calibrated afterwards
VALIDATION_SHARE = 0.25  # of the training vans, in another fleet


def simulated(vans: int, days: float, seed: int, validation_vans: int | None = None) -> Data:
    """A training fleet rich in faults, and a validation fleet of other vans in the following weeks."""
    train = FleetConfig(
        n_vehicles=vans, days=days, seed=1_000 + seed, start_ms=TRAINING_START_MS, faulty_share=TRAINING_FAULTY_SHARE
    )
    validation = FleetConfig(
        n_vehicles=validation_vans or max(4, round(vans * VALIDATION_SHARE)),
        days=days,
        seed=2_000 + seed,
        start_ms=TRAINING_START_MS + round(days * DAY_MS),
    )
    return Data(SimulatedFleet(train), SimulatedFleet(validation))


def recorded(data: Path, events: Path, channels: Path | None = None, *, workers: int = 1) -> Data:
    """A user's own recordings, checked from first to last, split by vehicle (docs/training.md).

    Args:
        data: folder of CSV or Parquet files.
        events: CSV or Parquet file of events.
        channels: JSON file of the channel schema; a van's when None.
        workers: processes that check files side by side.

    Raises:
        OwnDataError: something in them cannot be used; the message lists file, row, column and reason.
    """
    schema = VAN_SCHEMA if channels is None else read_channels(channels)
    return Data(*split(open_fleet(data, events, schema, workers=workers)))
