"""Fit the baselines that need no GPU: `python -m model.baselines.fit --out FOLDER`, one folder for each, by name.

They learn from the fleets that `emberwatch train` simulates: rich in faults for training, later weeks for validation.
"""

import argparse
import logging
import time
from pathlib import Path

from model.baselines.boosting import BoostingConfig
from model.baselines.registry import make
from model.training.sources import simulated

logger = logging.getLogger(__name__)

NAMES = ("temperature_rule", "gaussian", "lightgbm", "oracle")


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the fitted baselines")
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES, help="which")
    parser.add_argument("--vans", type=int, default=240, help="of the training fleet")
    parser.add_argument("--validation-vans", type=int, default=120, help="of the validation fleet")
    parser.add_argument("--days", type=float, default=14.0, help="of each van")
    parser.add_argument("--seed", type=int, default=0, help="as of `emberwatch train`")
    parser.add_argument("--workers", type=int, default=2, help="processes that simulate")
    parser.add_argument("--searches", type=int, default=8, help="settings of the boosted trees that are tried")
    parser.add_argument("--bag", type=int, default=3, help="boosters whose margins are averaged")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    fleets = simulated(options.vans, options.days, options.seed, options.validation_vans)
    for name in options.names:
        started = time.monotonic()
        boosted = {"config": BoostingConfig(searches=options.searches, bag=options.bag)}
        baseline = make(name, **(boosted if name in {"lightgbm", "oracle"} else {}))
        baseline.fit(fleets.train, fleets.validation, seed=options.seed, workers=options.workers)
        baseline.save(options.out / name)
        logger.info("%s fitted in %.0f s", name, time.monotonic() - started)


if __name__ == "__main__":
    main()
