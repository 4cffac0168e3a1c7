"""Names of keys. Every key of a partition carries its hash tag, so that one script touches one slot of a cluster."""

import binascii
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from service.records.journal import BASE_DTYPE

KEYS_REMEMBERED = 65_536


class VehicleKeys(NamedTuple):
    """Where one vehicle is kept."""

    partition: int
    head: bytes
    journal: bytes
    trend: bytes
    snapshot: bytes  # what the name of each of its snapshots begins with
    tail: bytes  # of its history
    history: bytes  # list of blocks

    def snapshot_of(self, base: bytes) -> bytes | None:
        """Key of the snapshot that a journal's base names; None for the zero state."""
        if len(base) != BASE_DTYPE.itemsize:
            return None
        named = np.frombuffer(base, BASE_DTYPE)[0]
        if not named["nonce"]:
            return None
        return self.snapshot_named(int(named["epoch"]), int(named["seq"]), int(named["nonce"]))

    def snapshot_named(self, epoch: int, seq: int, nonce: int) -> bytes:
        """Key of a snapshot."""
        return self.snapshot + f"{epoch}:{seq}:{nonce:016x}".encode()


class PartitionKeys(NamedTuple):
    """What the vehicles of a partition share."""

    vehicles: str  # sorted set by when they were last heard
    risks: str  # sorted set by last risk
    alerts: str  # hash: last alert of each vehicle and rule
    transitions: str  # stream of what changed
    open: str  # hash: phase and severity of the alerts that are open
    delivery: str  # hash: what was cut off from the stream
    fence: str
    lease: str  # whose turn it is to sweep
    held: str  # hash: notices that wait for the end of a silence, or to be delivered once more
    dead: str  # stream of notices that a sink would not take


def partition_of(vehicle_id: str, partitions: int) -> int:
    """CRC-16 (XMODEM, as in Redis Cluster) of the id, modulo the partitions."""
    return binascii.crc_hqx(vehicle_id.encode(), 0) % partitions


@lru_cache(KEYS_REMEMBERED)
def vehicle_keys(vehicle_id: str, partitions: int) -> VehicleKeys:
    """The keys of one vehicle."""
    partition = partition_of(vehicle_id, partitions)
    prefix = f"{{ew:{partition}}}:v:{vehicle_id}:".encode()
    own = (prefix + name for name in (b"head", b"journal", b"trend", b"snap:", b"tail", b"history"))
    return VehicleKeys(partition, *own)


@lru_cache(16_384)
def partition_keys(partition: int) -> PartitionKeys:
    """The keys of one partition."""
    tag = f"{{ew:{partition}}}"
    return PartitionKeys(*(f"{tag}:{name}" for name in PartitionKeys._fields))
