"""Where a listener is in all partitions at once, as the `id` of a Server-Sent Event.

`<floor>~<partition>.<ms>-<n>~...`: every entry of before `floor` (ms of the store's clock) has been seen, and of the
partitions named everything up to the entry named, whose time is given from the floor on. Only partitions in which something
happened since the floor have to be named, so an id is short however many partitions there are.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from service.errors import InvalidParameter

SLACK_MS = (
    5_000  # the floor stays behind by so much, for stores whose clock steps back or that are replaced by a replica
)
MOST_NAMED = 64  # partitions; those that do not fit are heard again from the floor: twice is allowed, missing is not
FORM = re.compile(r"\d{1,15}(~\d{1,5}\.\d{1,15}-\d{1,19})*")
LONGEST = 4_096  # characters

EntryId = tuple[int, int]  # ms, number within it


def entry_id(text: str) -> EntryId:
    """`ms-n` as numbers, which order as entries do."""
    ms, _, n = text.partition("-")
    return int(ms), int(n)


@dataclass(frozen=True, slots=True)
class Position:
    """Every entry up to here has been seen.

    Attributes:
        floor_ms: in partitions that are not named, everything of before this time.
        seen: last entry seen, by partition; none is of before the floor.
    """

    floor_ms: int
    seen: Mapping[int, EntryId]

    @staticmethod
    def at(floor_ms: int, last: Mapping[int, EntryId]) -> "Position":
        """The position of who has seen everything of before `floor_ms`, and these last entries."""
        floor = max(0, floor_ms - SLACK_MS)
        return Position(floor, {p: entry for p, entry in last.items() if entry[0] >= floor})

    @staticmethod
    def parse(text: str, partitions: int) -> "Position":
        """Raises InvalidParameter."""
        if len(text) > LONGEST or not FORM.fullmatch(text):
            raise InvalidParameter.of([("Last-Event-ID", "is not an id that this stream gave out")])
        floor, *named = text.split("~")
        seen = {}
        for part in named:
            partition, _, entry = part.partition(".")
            if int(partition) >= partitions:
                raise InvalidParameter.of([("Last-Event-ID", f"is of a data set of more than {partitions} partitions")])
            ms, n = entry_id(entry)
            seen[int(partition)] = (int(floor) + ms, n)
        return Position(int(floor), seen)

    def __str__(self) -> str:
        latest = sorted(self.seen.items(), key=lambda item: item[1])[-MOST_NAMED:]
        return "~".join([str(self.floor_ms), *(f"{p}.{ms - self.floor_ms}-{n}" for p, (ms, n) in latest)])

    def start_of(self, partition: int) -> str:
        """The id after which a partition has not been seen."""
        seen = self.seen.get(partition)
        if seen is not None:
            return f"{seen[0]}-{seen[1]}"
        return f"{self.floor_ms - 1}-{2**64 - 1}" if self.floor_ms else "0-0"
