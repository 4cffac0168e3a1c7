"""What an acknowledgement is worth: on disk before it, a store that went back in time, a cluster, a cut connection."""

import asyncio
import shutil
from collections.abc import Iterator

import pytest
import redis
from redis.crc import key_slot

from model.checkpoint import Checkpoint
from service.errors import StoreUnavailable
from service.store.redis_link import RedisLink
from service.store.redis_server import Server
from service.store.store_check import StoreMisconfigured
from service.store.store_keys import vehicle_keys
from tests.processes import ValkeyProcess, free_port, wait_until
from tests.service.workers import PARTITIONS, close_to, count, run, words, worker


def test_with_fsync_nothing_acknowledged_is_lost(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, vehicle: str
) -> None:
    """The store is killed right after an answer; what is on its disk holds every acknowledged sample."""
    own = ValkeyProcess(tmp_path_factory.mktemp("fsync"), "--appendfsync", "always").start()
    under_test = worker(own.url, checkpoint, durability="fsync", snapshot_every=4)

    async def scenario() -> None:
        await under_test.store.check()
        n = 0
        for _ in range(3):
            await under_test.stream(vehicle, n, n + 7)
            n += 7
            own.kill()
            assert words(await under_test.apply((vehicle, n))) == ["deferred"]
            own.start()
            assert (await under_test.state(vehicle)).seq == n - 1
            assert close_to(await under_test.state(vehicle), under_test.offline(n))

    try:
        run([under_test], scenario)
    finally:
        own.stop_if_running()


def test_a_disk_that_is_slow_defers_and_does_not_acknowledge(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that is not on disk in time is deferred; its retry waits for the disk again before it says duplicate."""
    under_test = worker(valkey.url, checkpoint, durability="fsync")
    exchange = RedisLink._exchange
    fences = 0

    async def slow(self: RedisLink, node: Server, commands: list[tuple[object, ...]], durable: bool) -> list[object]:
        nonlocal fences
        replies = await exchange(self, node, commands, False)
        if durable:
            fences += 1
            if fences == 2:
                raise TimeoutError("not on disk")
        return replies

    async def scenario() -> None:
        await under_test.apply((f"{vehicle}.other", 0))  # the store knows the script from here on
        monkeypatch.setattr(RedisLink, "_exchange", slow)
        assert words(await under_test.apply((vehicle, 0))) == ["deferred"]  # fence of the load, then of the commit
        assert words(await under_test.apply((vehicle, 0))) == ["duplicate"]
        assert fences == 3

    run([under_test], scenario)


def test_a_store_that_went_back_in_time_is_noticed_and_healed_by_retries(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A replica that lacked the last samples was promoted: counted, the cache dropped, a device that repeats heals it."""
    folder = tmp_path_factory.mktemp("promoted")
    own = ValkeyProcess(folder).start()
    under_test = worker(own.url, checkpoint, snapshot_every=3)

    async def scenario() -> None:
        await under_test.stream(vehicle, 0, 5)
        await under_test.written()
        with own.client as client:
            stale = {key: client.dump(key) for key in client.keys(f"*v:{vehicle}:*")}
        await under_test.stream(vehicle, 5, 12)
        await under_test.written()
        with own.client as client:
            client.delete(*client.keys(f"*v:{vehicle}:*"))
            for key, value in stale.items():
                client.restore(key, 0, value)
        # A device that goes on as if nothing had happened is told, once, where the gap begins.
        answers = await under_test.apply((vehicle, 12))
        assert words(answers) == ["deferred"]
        assert "from seq 5 on" in answers.reasons[0]
        # The device repeats from the last one it is sure of.
        assert words(await under_test.run(vehicle, 3, 13)) == ["duplicate"] * 2 + ["applied"] * 8
        assert count(under_test.metrics.store_regressions) == 1
        assert close_to(await under_test.state(vehicle), under_test.offline(13))

    try:
        run([under_test], scenario)
    finally:
        own.stop_if_running()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_device_without_the_lost_samples_goes_on_at_its_second_try(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, vehicle: str
) -> None:
    """An emptied store: told once for all rows of a request, then what comes is taken; other vans are not held up."""
    folder = tmp_path_factory.mktemp("emptied")
    own = ValkeyProcess(folder).start()
    under_test = worker(own.url, checkpoint)

    async def scenario() -> None:
        await under_test.stream(vehicle, 0, 4)
        with own.client as client:
            client.flushall()
        other = f"{vehicle}.other"
        both = await under_test.apply((vehicle, 4), (other, 0), (vehicle, 5))
        assert words(both) == ["deferred", "applied", "deferred"]
        assert "from seq 0 on" in both.reasons[0]
        assert words(await under_test.run(vehicle, 4, 6)) == ["applied"] * 2
        assert count(under_test.metrics.store_regressions) == 1

    try:
        run([under_test], scenario)
    finally:
        own.stop_if_running()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_commit_whose_answer_was_lost_is_a_duplicate_when_it_is_sent_again(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the script ran: deferred, since nobody knows; the retry finds it applied once."""
    under_test = worker(valkey.url, checkpoint)
    attempt = RedisLink.attempt

    async def broken(self: RedisLink, commands: list[tuple[object, ...]], *, durable: bool = False) -> list[object]:
        await attempt(self, commands, durable=durable)
        raise ConnectionResetError("by the test")

    async def scenario() -> None:
        await under_test.stream(vehicle, 0, 2)
        with monkeypatch.context() as patched:
            patched.setattr(RedisLink, "attempt", broken)
            assert words(await under_test.apply((vehicle, 2))) == ["deferred"]
        assert words(await under_test.run(vehicle, 2, 4)) == ["duplicate", "applied"]
        assert close_to(await under_test.state(vehicle), under_test.offline(4))

    run([under_test], scenario)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyProcess]]:
    """Three primaries that share the slots, without replicas."""
    nodes = []
    for _ in range(3):
        bus = str(free_port())
        options = ["--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-require-full-coverage", "no"]
        options += ["--appendfsync", "always"]
        nodes.append(ValkeyProcess(tmp_path_factory.mktemp("node"), *options).start())
    for i, node in enumerate(nodes):
        with node.client as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", i * 5_461, 16_383 if i == 2 else (i + 1) * 5_461 - 1)
            for other in nodes[:i]:
                bus = other._options[3]
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
    wait_until(lambda: all(knows_all(node) for node in nodes), "the cluster to know itself")
    yield nodes
    for node in nodes:
        node.kill()


def knows_all(node: ValkeyProcess) -> bool:
    """Whether a node sees all slots served by three nodes."""
    with redis.Redis(port=node.port) as client:
        info = str(client.execute_command("CLUSTER", "INFO"))
    return "cluster_size:3" in info or "'cluster_size': '3'" in info


def test_a_cluster_is_served_like_one_server(
    cluster: list[ValkeyProcess], checkpoint: Checkpoint, vehicle: str
) -> None:
    """Vans on all nodes in every batch, snapshots and a second worker; then one node dies and comes back."""
    url = cluster_url(cluster[0])
    one, two = (worker(url, checkpoint, n_slots=30, snapshot_every=4, durability="fsync") for _ in range(2))
    names = [f"{vehicle}.{i}" for i in range(12)]

    async def send(i: int) -> list[str]:
        return words(await (one if i % 2 else two).apply(*((name, i) for name in names)))

    async def scenario() -> None:
        await one.store.check()
        await one.store.ping()
        for i in range(10):
            assert await send(i) == ["applied"] * 12, i
        await asyncio.gather(one.written(), two.written())
        assert count(one.metrics.snapshots, "written") + count(two.metrics.snapshots, "written") >= 12
        assert len(await one.store.roll.by_risk(100, None)) == 12
        assert await one.store.stored_bytes(names[0]) > 274_000
        cluster[1].kill()
        lost = [5_461 <= key_slot(vehicle_keys(name, PARTITIONS).head) < 10_922 for name in names]
        assert True in lost
        assert False in lost
        for i in range(10, 14):  # each worker finds out for itself, then knows
            assert await send(i) == ["deferred" if gone else "applied" for gone in lost], i
        await one.store.ping()
        for i in (13, 12):  # to each worker; one of them has not the last head
            assert await send(i) == ["deferred" if gone else "duplicate" for gone in lost]
        cluster[1].start()
        for i in range(10, 14):
            for _ in range(100):
                if set(await send(i)) <= {"applied", "duplicate"}:
                    break
                await asyncio.sleep(0.2)
        for name in names:
            assert close_to(await two.state(name), two.offline(14))

    run([one, two], scenario)


def test_one_node_of_a_cluster_is_refused_as_a_store_of_its_own(
    cluster: list[ValkeyProcess], valkey: ValkeyProcess, checkpoint: Checkpoint
) -> None:
    """A redis:// URL of a node would defer the vehicles of all others for ever; a single server is no cluster either."""
    node, single = (worker(url, checkpoint) for url in (cluster[0].url, cluster_url(valkey)))

    async def scenario() -> None:
        with pytest.raises(StoreMisconfigured, match="redis-cluster://"):
            await node.store.check()
        with pytest.raises(StoreUnavailable):
            await single.store.check()

    run([node, single], scenario)


def cluster_url(node: ValkeyProcess) -> str:
    """The URL by which a cluster is found at one of its nodes."""
    return node.url.replace("redis://", "redis-cluster://")
