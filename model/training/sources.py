"""What `emberwatch train` learns from: vehicles for training and others, later ones, for validation."""

from model.dataset import SimulatedFleet
from model.fleet import FleetConfig
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
