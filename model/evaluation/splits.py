"""The fleets of each split: other vans (seeds) and later weeks, so that nothing of a test van was ever trained on."""

from model.fleet import FleetConfig

START_MS = 1_783_296_000_000  # 2026-07-06T00:00Z
WEEK_MS = 604_800_000
DAYS = 14.0

# (seed, weeks after the training fleet's start); `quick` is what a user repeats on a small machine.
SPLITS = {"train": (1000, 0), "validation": (2000, 2), "test": (3000, 4), "quick": (4000, 4)}


def split_fleet(split: str, vans: int, days: float = DAYS, seed: int | None = None) -> FleetConfig:
    """The fleet of a split; `seed` overrides the split's own.

    Raises:
        ValueError: no split has that name, or the sizes describe no fleet.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    own_seed, weeks = SPLITS[split]
    return FleetConfig(
        n_vehicles=vans, days=days, seed=own_seed if seed is None else seed, start_ms=START_MS + weeks * WEEK_MS
    )
