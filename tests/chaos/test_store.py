"""The store dies: its process, its power, its disk. What was acknowledged is kept within the stated bound."""

import logging
import random
import resource
import time
from pathlib import Path

from tests.chaos.conftest import StartWorker
from tests.chaos.power import MortalStore
from tests.chaos.senders import Fleet
from tests.chaos.truth import check, check_losses
from tests.chaos.waitaof import early_answers
from tests.processes import ServiceProcess, ValkeyProcess

logger = logging.getLogger(__name__)

EVERYSEC_BOUND_S = 2.0  # an fsync each second, and as long again for a slow disk
SPACE_LEFT = 300_000


def test_a_killed_store_keeps_what_was_acknowledged(
    seed: int, rng: random.Random, store: ValkeyProcess, start_worker: StartWorker
) -> None:
    """`kill -9` of the store's process at random moments: its file is whole, since it is written before each answer."""
    worker = start_worker(store.url)
    fleet = Fleet([worker.url], seed, keep_s=5.0)
    with fleet.sending():
        for _ in range(3):
            time.sleep(rng.uniform(0.3, 1.2))
            store.kill()
            time.sleep(rng.uniform(0.0, 0.5))
            store.start()
        time.sleep(0.3)
    check(worker.url, fleet.vans, lost_allowed=True)


def play_power_cut(
    store: MortalStore, worker: ServiceProcess, fleet: Fleet, rng: random.Random, bound_s: float | None
) -> None:
    """Cut the power under load, see what is left, and let the vans heal it. Without a bound nothing may be lost."""
    with fleet.sending():
        time.sleep(rng.uniform(1.5, 3.0))
        cut_at = time.monotonic()
        logger.info("%d bytes lost", store.cut_power())
        fleet.wait_until_all_failed()
        with fleet.silence():
            store.start()
            worker.wait_until_ready()
            lost = check_losses(worker.url, fleet.vans, cut_at - (bound_s or 0.0))
            assert bound_s is not None or lost == 0
        time.sleep(rng.uniform(0.3, 0.8))
    check(worker.url, fleet.vans, lost_allowed=bound_s is not None)


def test_a_power_cut_under_everysec_is_short_by_the_bound_and_healed(
    seed: int, rng: random.Random, tmp_path: Path, fsync_ledger: Path, start_worker: StartWorker
) -> None:
    """Every van's state is that of a beginning of its samples; devices that send the last seconds again make it whole."""
    store = MortalStore(tmp_path / "store", fsync_ledger).start()
    try:
        worker = start_worker(store.url)
        play_power_cut(store, worker, Fleet([worker.url], seed, keep_s=60.0), rng, EVERYSEC_BOUND_S)
    finally:
        store.stop_if_running()


def test_a_power_cut_under_fsync_loses_nothing(
    seed: int, rng: random.Random, tmp_path: Path, fsync_ledger: Path, start_worker: StartWorker
) -> None:
    """What was acknowledged is there, without any help of the devices."""
    store = MortalStore(tmp_path / "store", fsync_ledger, "--appendfsync", "always").start()
    try:
        worker = start_worker(store.url, durability="fsync")
        play_power_cut(store, worker, Fleet([worker.url], seed, keep_s=0.0), rng, None)
    finally:
        store.stop_if_running()


def test_what_the_store_calls_on_disk_is_on_disk(tmp_path: Path, fsync_ledger: Path) -> None:
    """Durability fsync rests on this, and only `appendfsync always` gives it (ADR 7)."""
    store = MortalStore(tmp_path / "store", fsync_ledger, "--appendfsync", "always").start()
    try:
        answers, early = early_answers(store, seconds=2.0)
    finally:
        store.stop_if_running()
    assert answers > 50
    assert early == 0


def test_a_full_disk_refuses_and_recovers(
    seed: int, rng: random.Random, store: ValkeyProcess, start_worker: StartWorker
) -> None:
    """While the store's file cannot grow nothing is acknowledged that will not be kept; with room again all goes on."""
    worker = start_worker(store.url)
    fleet = Fleet([worker.url], seed)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with fleet.sending():
        for _ in range(2):
            time.sleep(rng.uniform(0.3, 0.8))
            (log,) = store.folder.glob("appendonlydir/*.incr.aof")
            limit = log.stat().st_size + rng.randrange(SPACE_LEFT)
            resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (limit, hard))
            before = fleet.outcomes["503"] + fleet.outcomes["207"]
            time.sleep(rng.uniform(1.5, 2.5))
            assert fleet.outcomes["503"] + fleet.outcomes["207"] > before, "the disk was not full"
            resource.prlimit(store.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        time.sleep(1.5)
    check(worker.url, fleet.vans)
    store.kill()
    store.start()
    worker.wait_until_ready()
    check(worker.url, fleet.vans)
