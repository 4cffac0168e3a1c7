"""What the service holds of every van, beside the offline scan over exactly what it acknowledged."""

import functools
import logging

import httpx
import numpy as np

from model.checkpoint import Checkpoint, load_checkpoint
from model.runtime import Recomputed, recompute
from service.records.vehicle_export import unpack_export
from tests.chaos.vans import Van

logger = logging.getLogger(__name__)

cache: dict[str, Recomputed] = {}  # the last truth of each van: the same is asked of several workers
TOLERANCE = 1e-4  # promise 1: relative error of the state; the same, absolute, for risks


@functools.cache
def checkpoint() -> Checkpoint:
    """The shipped model."""
    return load_checkpoint()


def relative_error(value: np.ndarray, truth: np.ndarray) -> float:
    """Norm of the difference over the norm of the truth."""
    return float(np.linalg.norm(value.astype(np.float64) - truth) / np.linalg.norm(truth))


def differences(http: httpx.Client, van: Van, count: int) -> list[str]:
    """Where the service's record of a van is not that of its first `count` samples, each applied once."""
    if not count:
        return []
    name, last_seq = van.vehicle_id, int(van.drive.seqs[count - 1])
    vehicle, state = http.get(f"/v1/vehicles/{name}"), http.get(f"/v1/vehicles/{name}/state")
    if (vehicle.status_code, state.status_code) != (200, 200):
        return [f"{name}: {count} samples sent, but {vehicle.text} and its state {state.content[:300]!r}"]
    found, held = vehicle.json(), unpack_export(state.content).snapshot()
    wanted = {"epoch": 1, "seq": last_seq, "samples": count, "current_model": True}
    wrong = [f"{key} is {found[key]}, should be {value}" for key, value in wanted.items() if found[key] != value]
    if (held.epoch, held.seq) != (1, last_seq):
        wrong.append(f"its state is of epoch {held.epoch}, seq {held.seq}, should be of seq {last_seq}")
    truth = truth_of(van, count)
    errors = {
        "ssm_state": relative_error(held.ssm, truth.ssm),
        "conv_state": relative_error(held.conv, truth.conv),
        "risk": abs(found["risk"] - truth.risk[-1]),
        "some answer's risk": max(
            [0.0, *(abs(risk - truth.risk[i]) for i, risk in van.answered_risk.items() if i < count)]
        ),
    }
    wrong += [f"{part} is off by {error:.2e}" for part, error in errors.items() if not error < TOLERANCE]
    return [f"{name} after {count} samples: {line}" for line in wrong]


def truth_of(van: Van, count: int) -> Recomputed:
    """The offline scan over a van's first samples."""
    known = cache.get(van.vehicle_id)
    if known is None or len(known.risk) != count:
        known = recompute(checkpoint(), van.drive.ts_ms[:count], van.drive.signals[:count])
        cache[van.vehicle_id] = known
    return known


def kept(http: httpx.Client, van: Van) -> int:
    """How many of a van's samples the service holds."""
    answer = http.get(f"/v1/vehicles/{van.vehicle_id}")
    return 0 if answer.status_code == 404 else int(answer.raise_for_status().json()["samples"])


def check_losses(url: str, vans: list[Van], lost_since: float) -> int:
    """Every van's record is that of a beginning of its samples, and what is missing was acknowledged after `lost_since`.

    Returns how many acknowledged samples are missing. Raises AssertionError.
    """
    wrong, lost = [], 0
    with httpx.Client(base_url=url, timeout=30.0) as http:
        for van in vans:
            count = kept(http, van)
            wrong += differences(http, van, count)
            missing = range(count, van.acknowledged)
            lost += len(missing)
            if missing and van.acknowledged_at[missing[0]] < lost_since:
                early = lost_since - van.acknowledged_at[missing[0]]
                wrong.append(
                    f"{van.vehicle_id}: sample {missing[0]} is lost, acknowledged {early:.2f} s too early for that"
                )
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:20]])
    logger.info("%d acknowledged samples of %d vans are missing", lost, len(vans))
    return lost


def check(url: str, vans: list[Van], *, lost_allowed: bool = False) -> None:
    """Every van's record is that of exactly its acknowledged samples, and none was applied twice.

    Args:
        url: of a worker.
        vans: when nothing of theirs is in flight.
        lost_allowed: the store had lost samples that had to be sent, and applied, a second time.

    Raises:
        AssertionError: naming the vans and what is wrong with them.
    """
    wrong = []
    with httpx.Client(base_url=url, timeout=30.0) as http:
        for van in vans:
            wrong += differences(http, van, van.acknowledged)
            twice = [i for i, times in van.applied.items() if times > 1]
            if twice and not lost_allowed:
                wrong.append(f"{van.vehicle_id}: answered `applied` twice: {twice}")
    assert not wrong, "\n".join([f"{len(wrong)} differences", *wrong[:20]])
    assert sum(van.acknowledged for van in vans) > 2 * len(vans), "too little was sent to mean anything"
