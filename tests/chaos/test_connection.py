"""The network between worker and store misbehaves in every way; once it behaves, all is exact."""

import random
import time
from collections.abc import Callable

from tests.chaos.conftest import StartWorker
from tests.chaos.proxy import Proxy
from tests.chaos.senders import Fleet
from tests.chaos.truth import check
from tests.processes import ValkeyProcess


def test_a_bad_connection_to_the_store_loses_and_doubles_nothing(
    seed: int, rng: random.Random, store: ValkeyProcess, start_worker: StartWorker
) -> None:
    """Two workers, one with a good connection. The other's is stalled, cut, delayed, half closed, and hears no replies."""
    with Proxy(store.port) as proxy:
        bad, good = start_worker(proxy.url), start_worker(store.url)
        fleet = Fleet([bad.url, bad.url, good.url], seed)
        troubles: list[Callable[[], None]] = [
            proxy.stall, proxy.cut, proxy.refuse, proxy.half_close, proxy.swallow_replies,
            lambda: proxy.delay(rng.uniform(0.01, 0.4)),
        ]  # fmt: skip
        with fleet.sending():
            for trouble in rng.sample(troubles, len(troubles)):
                time.sleep(rng.uniform(0.1, 0.6))
                trouble()
                time.sleep(rng.uniform(0.1, 1.5))
                proxy.heal()
            time.sleep(0.3)
        check(bad.url, fleet.vans)
        check(good.url, fleet.vans)
