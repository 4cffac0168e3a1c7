"""Which server a command goes to: the only one, or the one of a cluster that has the key's slot.

A cluster's map of slots is our own, because redis-py's closes connections that are in use whenever it reads the map again, waits without a
limit for nodes that hang, and forgets nodes that were away. Here the map is read in the background, from all nodes, while
commands to the other nodes go on; a node that does not answer is not asked again by anybody until it does.
"""

import asyncio
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import structlog
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, RedisError

from service.store.redis_server import Server, options_of
from service.store.redis_wire import Command

logger = structlog.get_logger(__name__)

CLUSTER_SCHEMES = {"redis-cluster": "redis", "rediss-cluster": "rediss"}
LOOK_AGAIN_S = 0.25  # while a node is down or the map is in doubt
LONGEST_LOOK_S = 1.0

Address = tuple[str, int]
SlotMap = tuple[tuple[int, int, tuple[Address, ...]], ...]  # first and last slot, primary and replicas


class NodeDown(RedisConnectionError):
    """The node did not answer lately; nothing was sent."""


def is_cluster(url: str) -> bool:
    """Whether the URL names a node of a cluster."""
    return url.split("://", 1)[0] in CLUSTER_SCHEMES


class SingleNode:
    """One server."""

    def __init__(self, url: str, timeout_s: float) -> None:
        options = options_of(url)
        host, port = address_of(options)
        name = str(options.get("path") or f"{host}:{port}")
        self._server = Server(name, options, timeout_s)
        self._doubtful = False

    async def prepare(self) -> None:
        """Get ready to be asked for servers."""
        if self._doubtful:
            self._doubtful = False
            await self._server.hang_up()

    def server_of(self, _: Command) -> Server:
        """There is only one."""
        return self._server

    async def servers(self) -> list[Server]:
        """All that take writes."""
        return [self._server]

    def lost(self, _: Server) -> None:
        """It did not answer."""
        self._doubtful = True

    def doubt(self) -> None:
        """It may not be the primary any more: its name may lead somewhere else by now."""
        self._doubtful = True

    async def moved(self, _: MovedError) -> None:
        """Nothing to learn."""

    async def close(self) -> None:
        """Give the connections back."""
        await self._server.hang_up()


class ClusterNodes:
    """The primaries of a Redis Cluster. The URL may name several nodes, separated by commas."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._seeds = [options_of(seed) for seed in seeds_of(url)]
        self._nodes: dict[Address, Server] = {}
        self._owners: list[Server | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._known = False  # the map was read once
        self._doubtful = False
        self._reading = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        for seed in self._seeds:
            self._node(address_of(seed))

    async def prepare(self) -> None:
        """Wait for the first map. Raises RedisConnectionError if no node tells it."""
        if not self._known:
            async with self._reading:
                if not self._known and not await self._read_map():
                    names = ", ".join(node.name for node in self._nodes.values())
                    raise RedisConnectionError(f"no node of the cluster tells its map of slots: asked {names}")

    def server_of(self, command: Command) -> Server:
        """The primary of the slot of the command's first key. Raises NodeDown."""
        slot = key_slot(first_key(command))
        owner = self._owners[slot]
        if owner is None:
            self.doubt()
            raise NodeDown(f"no node serves slot {slot}")
        if owner.down:
            raise NodeDown(f"{owner.name} does not answer")
        return owner

    async def servers(self) -> list[Server]:
        """All that take writes."""
        await self.prepare()
        return list(dict.fromkeys(owner for owner in self._owners if owner is not None))

    def lost(self, node: Server) -> None:
        """It did not answer: nobody waits for it until it does."""
        if not node.down:
            node.down = True
            logger.warning("a node of the store's cluster does not answer", node=node.name)
        self.doubt()

    def doubt(self) -> None:
        """Read the map again, soon, beside what is under way."""
        self._doubtful = True
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_nodes(), name="cluster-nodes")

    async def moved(self, error: MovedError) -> None:
        """A node told who has a slot now."""
        if error.host:
            self._owners[error.slot_id] = self._node((error.host, error.port))
        else:  # the same host as the one that answered: the map knows
            await self._read_map()
        self.doubt()

    async def close(self) -> None:
        """Give the connections back."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        for node in self._nodes.values():
            await node.hang_up()

    async def _watch_nodes(self) -> None:
        """Until every primary answers and the map is one that was read after the last doubt."""
        while self._doubtful or any(owner is None or owner.down for owner in set(self._owners)):
            self._doubtful = False
            if not await self._read_map():
                self._doubtful = True
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _read_map(self) -> bool:
        """Ask all nodes at once and take the map that most of them tell; False if none does."""
        nodes = list(self._nodes.items())
        told = await asyncio.gather(*(self._ask(address, node) for address, node in nodes))
        maps = Counter(slots for slots in told if slots)
        if not maps:
            return False
        ((slots, _),) = maps.most_common(1)
        named = {address for _, _, addresses in slots for address in addresses}
        for first, last, (primary, *_) in slots:
            # Slots that nobody names keep their owner: it is down, and may come back.
            self._owners[first : last + 1] = [self._node(primary)] * (last + 1 - first)
        for address in named:
            self._node(address)
        self._known = True
        await self._forget(named)
        return True

    async def _forget(self, named: set[Address]) -> None:
        """Hang up on nodes that are gone for good."""
        needed = {owner for owner in self._owners if owner is not None}
        seeds = {address_of(seed) for seed in self._seeds}
        for address, node in list(self._nodes.items()):
            if address not in named | seeds and node not in needed:
                del self._nodes[address]
                await node.hang_up()

    async def _ask(self, address: Address, node: Server) -> SlotMap | None:
        """The map as one node sees it; None if it does not answer. Notes whether it does."""
        try:
            if node.down:
                await node.hang_up()
            limit = min(self._timeout_s, LONGEST_LOOK_S)
            pong, slots = await node.exchange([("PING",), ("CLUSTER", "SLOTS")], limit)
        except (RedisError, OSError, TimeoutError) as error:
            if not node.down:
                node.down = True
                logger.warning("a node of the store's cluster does not answer", node=node.name, reason=str(error))
            return None
        if isinstance(pong, Exception) or isinstance(slots, Exception):
            return None
        if node.down:
            node.down = False
            logger.info("a node of the store's cluster answers again", node=node.name)
        return slot_map(slots, address[0])

    def _node(self, address: Address) -> Server:
        """The node at an address, made when it is first heard of."""
        node = self._nodes.get(address)
        if node is None:
            host, port = address
            options = self._seeds[0] | {"host": host, "port": port}
            options.pop("db", None)  # a cluster has only one
            node = self._nodes[address] = Server(f"{host}:{port}", options, self._timeout_s)
        return node


def seeds_of(url: str) -> list[str]:
    """One URL for each node that a cluster's URL names."""
    scheme, rest = url.split("://", 1)
    parts = urlsplit(f"{CLUSTER_SCHEMES[scheme]}://{rest}")
    user, at, hosts = parts.netloc.rpartition("@")
    return [parts._replace(netloc=f"{user}{at}{host}").geturl() for host in hosts.split(",")]


def address_of(options: dict[str, Any]) -> Address:
    """Where the options of a connection lead."""
    return options.get("host", "localhost"), options.get("port", 6379)


def slot_map(reply: list[Any], asked: str) -> SlotMap:
    """A reply to CLUSTER SLOTS, in order; a node without a host of its own is where it was `asked`."""

    def address(node: list[Any]) -> Address:
        host = node[0].decode() if isinstance(node[0], bytes) else node[0]
        return (asked if host in {None, "", "?"} else host, int(node[1]))

    return tuple(sorted((int(row[0]), int(row[1]), tuple(address(node) for node in row[2:])) for row in reply))


def first_key(command: Command) -> bytes:
    """The key that decides where a command goes."""
    at = {"EVAL": 3, "EVALSHA": 3, "MEMORY": 2, "XGROUP": 2}.get(command[0], 1)
    key = command[at]
    return key if isinstance(key, bytes) else str(key).encode()
