"""What one vehicle costs at most: in the store, and in the worker that has it in its cache."""

from model.checkpoint import Checkpoint
from service.engine.batcher import BATCHES_UNDER_WAY
from service.engine.commits import longest_replay
from service.engine.trend import BINS, bin_dtype
from service.records.head import HeadLayout
from service.records.history import Retention
from service.records.journal import ANSWER_DTYPE, BASE_DTYPE, KEEP, JournalLayout
from service.records.state_codec import SnapshotDtype, snapshot_bytes
from service.settings import Settings

KEY_BYTES = 224  # of a Redis key beside its value: its name of up to 120 bytes, its entry in the table, object headers
INDEX_BYTES = 2_048  # places in two sorted sets, the last alert, and a share of tables that grow by doubling


def vehicle_bytes(
    checkpoint: Checkpoint, snapshot_every: int, snapshot_dtype: SnapshotDtype, retention: Retention | None = None
) -> dict[str, int]:
    """Upper bounds in bytes; those of keys are of memory in the store, not of the length of the value.

    `journal`: entries after the snapshot and those kept for retries, twice, because a Redis string that is appended to
    reserves as much again. While a snapshot is replaced, and for ten minutes when a worker died over it, there are two.
    `history`: the list within its bound, and the tail, which is appended to as the journal is; only with a retention.
    """
    config = checkpoint.config
    state = config.state_bytes
    head = HeadLayout(checkpoint.preprocessor(), "0" * 32).dtype.itemsize
    entry = JournalLayout(config.d_input).dtype.itemsize
    longest = BASE_DTYPE.itemsize + (KEEP + longest_replay(snapshot_every)) * entry
    snapshot = snapshot_bytes(config.conv_state_shape, config.ssm_state_shape, snapshot_dtype)
    keys = {
        "head": in_store(head),
        "journal": in_store(2 * longest),
        "snapshot": in_store(snapshot),
        "trend": in_store(BINS * bin_dtype(len(checkpoint.schema.channels)).itemsize),
    }
    if retention is not None:
        keys["history"] = retention.max_bytes + KEY_BYTES + in_store(2 * retention.layout.rotated_at)
    return {
        **keys,
        "index": INDEX_BYTES,
        "state": state,
        "total_in_store": sum(keys.values()) + INDEX_BYTES,
        "total_in_worker": state + head + KEEP * ANSWER_DTYPE.itemsize + BASE_DTYPE.itemsize,
    }


def in_store(n_bytes: int) -> int:
    """Memory of a key whose value has so many bytes: jemalloc serves sizes in steps of a quarter of a power of two."""
    step = 1 << max(4, (n_bytes - 1).bit_length() - 3)
    return -(-(n_bytes + 16) // step) * step + KEY_BYTES


def slots_within(checkpoint: Checkpoint, memory_bytes: int) -> int:
    """How many vehicles' states fit into so much memory, besides the dummy slot."""
    per_vehicle = vehicle_bytes(checkpoint, 1, "fp32")["total_in_worker"]
    return 1 + memory_bytes // per_vehicle


def slots_for(settings: Settings, checkpoint: Checkpoint) -> int:
    """Slots of the pool: as many as asked for, else as many as the memory for states holds.

    Raises:
        ValueError: too few for the batches that are under way at once.
    """
    if settings.slots is not None:
        return settings.slots
    slots = slots_within(checkpoint, settings.state_memory_bytes)
    needed = BATCHES_UNDER_WAY * settings.max_batch_size
    if slots <= needed:
        raise ValueError(
            f"state_memory_bytes ({settings.state_memory_bytes}) holds {slots - 1} vehicles; two batches of "
            f"max_batch_size ({settings.max_batch_size}) are under way at once and need {needed}"
        )
    return slots
