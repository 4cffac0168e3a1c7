"""Refit the forecast head on real drives beside simulated ones: `python -m model.training.forecast_head DATA --out FOLDER`.

The simulated vans drive more evenly than people do, so a head that has only seen them is far too sure of the next speed.
Only this last linear layer changes: states and risks stay what they were, bit for bit.

What it learns from: every second BMW i3 trip of DATA (docs/training.md says where to get them), thinned to 5 s from two
starting points, as recorded and once more as a van with a GPS receiver and coarser sensors would have reported it; and drives of
the simulated training fleet. Each is seen thrice: whole, with the core channels alone, and with channels hidden at random. The other trips and the
Leaf's drive stay unseen: `python -m model.baselines.forecasts DATA` judges on those.
"""

import argparse
import logging
import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernels import scan_forms_cpu
from kernels.reference import LOG_SCALE_BOUNDS
from model.baselines.forecasts import BMW_FITTED, FIT_VEHICLES, Log, bmw_trips, fitting_logs, preprocess_log, thinned
from model.baselines.protocol import COLUMN
from model.checkpoint import SHIPPED, Checkpoint, load_checkpoint, save_checkpoint
from model.dataset import SimulatedFleet
from model.fleet import FleetConfig
from model.fleet.depots import DEPOTS, to_wgs84
from model.fleet.sensors import receiver_error_m, rounded
from model.preprocess import Preprocessor
from model.recordings import Recording

logger = logging.getLogger(__name__)

INTERVAL_S = 5
SIMULATED_SAMPLES = 17_280  # a day of each van
STARTS = (0, 2)  # s, where the thinning of a trip begins
TURN_RATE_RAD = 0.03  # per second, standard deviation of the heading's change while driving
RECEIVER_QUALITY = (0.3, 4.0)  # times the simulator's errors
SENSOR_STEPS = {  # m, m/s, %, degC
    "altitude": (0.1, 0.3, 1.0, 3.0),
    "speed": (0.01, 0.1, 0.28, 0.45),
    "state_of_charge": (0.01, 0.1, 0.5),
    "pack_temperature": (0.1, 0.5, 1.0),
    "ambient_temperature": (0.1, 0.5, 1.0),
}
STEPS, BATCH, LEARNING_RATE = 500, 8_192, 3e-3
STAY = 1e-2  # nats per unit of squared distance from the weights before: where no drive says otherwise they stay


@dataclass(frozen=True, slots=True)
class Rows:
    """What the head sees and what came next, for many instants.

    Attributes:
        hidden: (n, d_model) normed residual stream.
        held: (n, n_channels) z-scores held at the instant.
        z: (n, n_channels) of the next sample.
        present: (n, n_channels) measured in the next sample.
    """

    hidden: Tensor
    held: Tensor
    z: Tensor
    present: Tensor


def as_another_van(trip: Recording, rng: np.random.Generator) -> Recording:
    """A trip, sampled at 1 s, as a van with a GPS receiver and coarser sensors would have reported it.

    The road is made up, the speed is the trip's. Receivers differ in how far they err, sensors in their steps.
    """
    signals, depot = trip.signals.copy(), DEPOTS[int(rng.integers(len(DEPOTS)))]
    speed = np.nan_to_num(signals[:, COLUMN["speed"]])
    heading = rng.uniform(0.0, 2.0 * np.pi) + np.cumsum(TURN_RATE_RAD * rng.standard_normal(len(speed)) * (speed > 1.0))
    # Errors have a minute's memory at the simulator's 5 s; between those instants they are interpolated.
    coarse = receiver_error_m(len(speed) // INTERVAL_S + 2, rng)
    coarse *= np.exp(rng.uniform(np.log(RECEIVER_QUALITY[0]), np.log(RECEIVER_QUALITY[1]), (3, 1)))
    at = np.arange(len(speed)) / INTERVAL_S
    east, north, up = (np.interp(at, np.arange(coarse.shape[1]), error) for error in coarse)
    where = to_wgs84(depot, np.cumsum(speed * np.sin(heading)) + east, np.cumsum(speed * np.cos(heading)) + north)
    signals[:, COLUMN["latitude"]], signals[:, COLUMN["longitude"]] = where
    signals[:, COLUMN["altitude"]] += up
    for name, steps in SENSOR_STEPS.items():
        signals[:, COLUMN[name]] = rounded(signals[:, COLUMN[name]], float(rng.choice(steps)))
    return Recording(trip.ts_ms, signals)


def real_variants(trips: Iterable[tuple[str, Recording]], preprocessor: Preprocessor, seed: int) -> list[Log]:
    """Each trip thinned from each of STARTS, as recorded and as another van would have reported it.

    The recorded elevation is a map's, smoother than any receiver's: as recorded, a trip teaches nothing of the climb rate.
    """
    rng, logs = np.random.default_rng(seed), []
    climb_rate = preprocessor.schema.channel_names.index("climb_rate")
    for name, trip in trips:
        for first in STARTS:
            recorded = preprocess_log(preprocessor, name, thinned(trip, INTERVAL_S, first))
            recorded.present[:, climb_rate] = False
            another = thinned(as_another_van(trip, rng), INTERVAL_S, first)
            logs += [recorded, preprocess_log(preprocessor, name, another)]
    return logs


def fittings(core: NDArray[np.bool_], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """What vans may lack, each (n_channels,): nothing, all but the core channels, and each channel with even odds."""
    return [np.zeros_like(core), ~core, rng.random(len(core)) < 0.5]


@torch.inference_mode()
def rows_of(checkpoint: Checkpoint, log: Log, absent: NDArray[np.bool_]) -> Rows:
    """A log through the network, without the channels `absent` (n_channels,)."""
    n = checkpoint.config.n_channels
    inputs, present = log.inputs.copy(), log.present & ~absent
    inputs[:, :n][:, absent] = inputs[:, n : 2 * n][:, absent] = 0.0
    features = torch.from_numpy(inputs)
    hidden = checkpoint.network.hidden(features[None], torch.from_numpy(log.ratio)[None], scan_forms_cpu())[0]
    next_present = torch.from_numpy(present[1:])
    kept = next_present.any(dim=1)
    return Rows(hidden[:-1][kept], features[:-1, :n][kept], features[1:, :n][kept], next_present[kept])


def fitted_head(
    checkpoint: Checkpoint, real: Sequence[Rows], simulated: Sequence[Rows], seed: int, steps: int = STEPS
) -> torch.nn.Linear:
    """The forecast head of least Laplace nats per reading, half of them real; starts from the checkpoint's own."""
    generator = torch.Generator().manual_seed(seed)
    start = deepcopy(checkpoint.network.forecast_head).float().requires_grad_(requires_grad=False)
    head = deepcopy(start).requires_grad_(requires_grad=True)
    optimiser = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 0.02 * LEARNING_RATE)
    halves = [[torch.cat(tensors) for tensors in zip(*map(_tensors, rows), strict=True)] for rows in (real, simulated)]
    for step in range(steps):
        picks = [torch.randint(len(half[0]), (BATCH // 2,), generator=generator) for half in halves]
        hidden, held, z, present = (
            torch.cat([half[i][pick] for half, pick in zip(halves, picks, strict=True)]) for i in range(4)
        )
        difference, log_scale = F.linear(hidden, head.weight, head.bias).chunk(2, dim=-1)
        log_scale = log_scale.clamp(*LOG_SCALE_BOUNDS)
        nats = math.log(2.0) + log_scale + (z - held - difference).abs() * torch.exp(-log_scale)
        strayed = (head.weight - start.weight).square().sum()
        loss = (nats * present).sum() / present.sum() + STAY * strayed
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 250 == 0:
            logger.info("step %d: %.4f nats per reading", step, loss.item())
    return head.requires_grad_(requires_grad=False)


def _tensors(rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return rows.hidden, rows.held, rows.z, rows.present


def refit(checkpoint: Checkpoint, data: Path, seed: int, workers: int) -> Checkpoint:
    """The checkpoint with a forecast head fitted as this module says.

    Raises:
        FileNotFoundError: no BMW trips in `data`.
    """
    if not (trips := bmw_trips(data)[BMW_FITTED::2]):
        raise FileNotFoundError(f"{data} has no bmw_i3/Trip*.csv.gz")
    preprocessor, rng = checkpoint.preprocessor(), np.random.default_rng(seed)
    core = np.array([channel.core for channel in checkpoint.schema.channels])
    logs = real_variants(trips, preprocessor, seed)
    real = [rows_of(checkpoint, log, absent) for log in logs for absent in fittings(core, rng)]
    fleet = SimulatedFleet(FleetConfig(n_vehicles=FIT_VEHICLES, days=3.0, seed=1_000))
    drives = fitting_logs(fleet, preprocessor, SIMULATED_SAMPLES, workers)
    simulated = [rows_of(checkpoint, log, absent) for log in drives for absent in fittings(core, rng)]
    logger.info("%d real rows, %d simulated", *(sum(len(rows.hidden) for rows in of) for of in (real, simulated)))
    network = deepcopy(checkpoint.network)
    network.forecast_head = fitted_head(checkpoint, real, simulated, seed)
    provenance = checkpoint.provenance | {
        "forecast_head": f"refitted on every second BMW i3 trip, {INTERVAL_S} s, and {FIT_VEHICLES} simulated vans; seed {seed}"
    }
    return replace(checkpoint, network=network, provenance=provenance)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with bmw_i3/Trip*.csv.gz")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="whose head")
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    before = load_checkpoint(options.checkpoint)
    after = refit(before, options.data, options.seed, options.workers)
    save_checkpoint(after, options.out, dtype=torch.float16)
    logger.info("fingerprint %s, was %s", after.fingerprint(), before.fingerprint())


if __name__ == "__main__":
    main()
