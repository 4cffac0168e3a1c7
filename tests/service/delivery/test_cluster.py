"""Delivery from a Redis Cluster: each partition on its own node, all of it as from one server."""

import asyncio
from pathlib import Path

import redis

from service.delivery.events import Filter
from tests.chaos.store_cluster import StoreCluster
from tests.service.delivery.outboxes import alert, commit, sinks_of, until, webhook, working
from tests.service.delivery.receivers import Receiver, receiving


def test_sinks_and_listeners_are_told_from_a_cluster(tmp_path: Path) -> None:
    """Forty notices over three nodes, each once; the stream has them too; trimming works."""
    cluster = StoreCluster(tmp_path / "cluster").start()

    async def scenario(receiver: Receiver) -> None:
        url = cluster.nodes[0].url.replace("redis://", "redis-cluster://").removesuffix("/0")
        client, heard = redis.RedisCluster.from_url(cluster.nodes[0].url), list[bytes]()
        async with working(url, sinks_of(tmp_path, webhook("hook", receiver.url))) as worker:

            async def listen() -> None:
                async for chunk in worker.delivery.listen(Filter(), None, lambda _: None):
                    heard.append(chunk)

            task = asyncio.create_task(listen())
            await until(lambda: len(heard) >= 2, "the listener to join")
            for n, transition in enumerate(("firing", "resolved")):
                for i in range(20):
                    commit(client, alert(f"van-{i}", transition, n))
            await until(lambda: len(receiver.got) >= 40, "all notices")
            await until(lambda: b"".join(heard).count(b"event: alert") == 40, "all events")
            await until(lambda: worker.count("hook", "delivered") == 40, "the answers")
            assert await worker.outbox.trim(["hook"], retained=1, limit=50) == 0
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        client.close()

    try:
        with receiving() as receiver:
            asyncio.run(scenario(receiver))
            assert sorted(receiver.ids()) == sorted(f"van-{i}-1-{n}" for i in range(20) for n in (0, 1))
    finally:
        cluster.stop()
