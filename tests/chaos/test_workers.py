"""Workers are killed, frozen and set against each other; the vans notice nothing but delays."""

import random
import time

from tests.chaos.conftest import StartWorker
from tests.chaos.counters import counter
from tests.chaos.senders import Fleet
from tests.chaos.truth import check
from tests.processes import ValkeyProcess


def test_a_killed_worker_loses_nothing(
    seed: int, rng: random.Random, store: ValkeyProcess, start_worker: StartWorker
) -> None:
    """`kill -9` at random moments, alone and with another worker that takes over."""
    first = start_worker(store.url)
    fleet = Fleet([first.url], seed)
    with fleet.sending():
        time.sleep(rng.uniform(0.3, 1.5))
        first.kill()
        first.start()
        time.sleep(rng.uniform(0.3, 1.0))
        second = start_worker(store.url)
        fleet.move(first.url, second.url)
        time.sleep(rng.uniform(0.2, 1.0))
        victim = rng.choice([first, second])
        victim.kill()
        time.sleep(rng.uniform(0.0, 0.3))
        victim.start()
        time.sleep(rng.uniform(0.2, 0.5))
    check(second.url, fleet.vans)
    check(first.url, fleet.vans)


def test_workers_that_fight_over_the_same_vans_agree(
    seed: int, rng: random.Random, store: ValkeyProcess, start_worker: StartWorker
) -> None:
    """Two, then four workers; every request goes to any of them; one is frozen in mid-work and wakes up to an old cache."""
    workers = [start_worker(store.url) for _ in range(2)]
    fleet = Fleet([worker.url for worker in workers], seed, n_threads=6, pause_s=0.03, timeout_s=1.0)
    with fleet.sending():
        time.sleep(1.0)
        workers += [start_worker(store.url) for _ in range(2)]
        fleet.move(*[worker.url for worker in workers])
        for _ in range(2):
            sleeper = rng.choice(workers)
            time.sleep(rng.uniform(0.2, 0.6))
            sleeper.pause()
            time.sleep(rng.uniform(0.5, 2.0))
            sleeper.resume()
        time.sleep(0.5)
    for worker in rng.sample(workers, 2):
        check(worker.url, fleet.vans)
    assert sum(counter(worker.url, "emberwatch_commit_conflicts_total") for worker in workers) > 0
