"""What `emberwatch bench ingest` can be asked, and the service's settings that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FEW_VANS = 1_000  # what is done for each van of these is done for some of a larger fleet
WRITE_THROUGH = "write-through"
JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What to measure.

    Attributes:
        vans: each sends one sample in every tick.
        batch: vans in a request; all of them, or FEW_VANS of a larger fleet, if None.
        rounds: of each measurement; the report has median, lowest and highest.
        round_s: about how long a round lasts.
        in_flight: batches on their way at once, each on a connection of its own, sent in order; on a busy machine the server may
            read the second first, and then the run ends with an error.
        connections: single samples on their way at once; of fleets above FEW_VANS none are measured.
        server_cores: that the service may use.
        modes: "journal", "write-through".
        settings: of the service, beside those that a mode sets.
        folder: for the stores' files; a temporary one if None.
    """

    vans: int = 240
    batch: int | None = None
    rounds: int = 5
    round_s: float = 3.0
    in_flight: int = 2
    connections: int = 64
    server_cores: int = 1
    modes: tuple[str, ...] = (JOURNAL, WRITE_THROUGH)
    settings: Mapping[str, object] | None = None
    folder: Path | None = None

    @property
    def few(self) -> bool:
        """Whether every van is proved, and warmed up beyond its first snapshot."""
        return self.vans <= FEW_VANS

    @property
    def batch_size(self) -> int:
        """Vans in a request."""
        return min(self.vans, self.batch or FEW_VANS)


def settings_of(mode: str, options: IngestOptions) -> dict[str, object]:
    """Settings that make the service work in this mode, and hold all vans in its cache unless the options say how many."""
    settings: dict[str, object] = {"backend": "cpu", **(options.settings or {})}
    if not options.few and not {"slots", "state_memory_bytes"} & settings.keys():
        settings["slots"] = options.vans + 1 + 2 * int(str(settings.get("max_batch_size", 256)))
    return settings | ({"snapshot_every": 1} if mode == WRITE_THROUGH else {})
