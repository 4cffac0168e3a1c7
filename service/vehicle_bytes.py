"""What one vehicle costs at most: in the store, and in the worker that has it in its cache."""

from model.checkpoint import Checkpoint
from service.commits import longest_replay
from service.head import HeadLayout
from service.journal import ANSWER_DTYPE, BASE_DTYPE, KEEP, JournalLayout
from service.state_codec import HEADER


def vehicle_bytes(checkpoint: Checkpoint, snapshot_every: int) -> dict[str, int]:
    """Upper bounds in bytes.

    `journal`: entries after the snapshot and those kept for retries, twice, because a Redis string that is appended to
    reserves as much again. While a snapshot is replaced, and for ten minutes when a worker died over it, there are two.
    """
    state = checkpoint.config.state_bytes
    head = HeadLayout(checkpoint.preprocessor(), "0" * 32).dtype.itemsize
    entry = JournalLayout(checkpoint.config.d_input).dtype.itemsize
    journal = 2 * (BASE_DTYPE.itemsize + (KEEP + longest_replay(snapshot_every)) * entry)
    return {
        "head": head,
        "journal": journal,
        "state": state,
        "snapshot": HEADER.size + state,
        "total_in_store": head + journal + HEADER.size + state,
        "total_in_worker": state + head + KEEP * ANSWER_DTYPE.itemsize + BASE_DTYPE.itemsize,
    }


def slots_within(checkpoint: Checkpoint, memory_bytes: int) -> int:
    """How many vehicles' states fit into so much memory, besides the dummy slot."""
    per_vehicle = vehicle_bytes(checkpoint, 1)["total_in_worker"]
    return 1 + memory_bytes // per_vehicle
