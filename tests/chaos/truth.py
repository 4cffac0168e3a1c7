"""What the service holds of every van, beside the offline scan over exactly what it acknowledged."""

import functools
import logging

import httpx
import numpy as np

from model.checkpoint import Checkpoint, load_checkpoint
from model.runtime import Recomputed, recompute
from service.state_codec import unpack_snapshot
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
    drive, name = van.drive, van.vehicle_id
    vehicle = http.get(f"/v1/vehicles/{name}")
    if vehicle.status_code != 200:
        return [f"{name}: {count} acknowledged, but {vehicle.status_code} {vehicle.text}"]
    wanted = {"epoch": 1, "seq": int(drive.seqs[count - 1]), "samples": count, "current_model": True}
    found = {key: vehicle.json()[key] for key in wanted}
    wrong = [] if found == wanted else [f"{name}: is {found}, should be {wanted}"]
    state = http.get(f"/v1/vehicles/{name}/state")
    if state.status_code != 200:
        return [*wrong, f"{name}: its state is {state.status_code} {state.text}"]
    held = unpack_snapshot(state.content)
    if (held.epoch, held.seq) != (1, wanted["seq"]):
        wrong.append(f"{name}: its state is of epoch {held.epoch}, seq {held.seq}, should be of {wanted}")
    if name not in cache or len(cache[name].risk) != count:
        cache[name] = recompute(checkpoint(), drive.ts_ms[:count], drive.signals[:count])
    truth = cache[name]
    for part, value, true in (("ssm_state", held.ssm, truth.ssm), ("conv_state", held.conv, truth.conv)):
        error = relative_error(value, true)
        if not error < TOLERANCE:
            wrong.append(f"{name}: {part} after {count} samples is off by {error:.2e}")
    if not abs(vehicle.json()["risk"] - truth.risk[-1]) < TOLERANCE:
        wrong.append(f"{name}: risk is {vehicle.json()['risk']}, should be {truth.risk[-1]}")
    for i, risk in van.answered_risk.items():
        if i < count and not abs(risk - truth.risk[i]) < TOLERANCE:
            wrong.append(f"{name}: sample {i} was answered risk {risk}, should be {truth.risk[i]}")
            break
    return wrong


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
                wrong.append(f"{van.vehicle_id}: sample {missing[0]} is lost, acknowledged {early:.2f} s too early for that")
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
    assert sum(van.acknowledged for van in vans) > 10 * len(vans), "too little was sent to mean anything"
