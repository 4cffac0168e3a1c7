"""Whether a smaller evaluation repeats a published one."""

from dataclasses import dataclass
from typing import Any

from model.evaluation.rows import Row

COMPARED = ("auroc", "auprc", "f2", "event_recall", "false_alarms_per_vehicle_day", "lead_time_median", "ece")


@dataclass(frozen=True, slots=True)
class Agreement:
    """One figure of both reports."""

    name: str
    model: str
    channels: int
    here: Row
    published: Row
    agrees: bool


def compare(here: list[Row], published: list[Row], split: str) -> list[Agreement]:
    """Figures of the main tables that both reports have.

    Two figures agree if their 95 % intervals overlap: both carry the chance of which vans were drawn, and the smaller
    fleet carries more of it. For figures of equal width that lets a difference through that chance alone exceeds once in
    about 180 times.
    """
    known = {_key(row): row for row in published if _is_main(row, split)}
    pairs = [(row, known[_key(row)]) for row in here if _is_main(row, None) and _key(row) in known]
    return [
        Agreement(
            name=row["name"],
            model=row["params"]["model"],
            channels=row["params"]["channels"],
            here=row,
            published=other,
            agrees=_overlap(row, other),
        )
        for row, other in pairs
    ]


def _is_main(row: Row, split: str | None) -> bool:
    params = row["params"]
    return (
        row["name"] in COMPARED
        and "fault" not in params
        and params["condition"] == "nominal"
        and params["split"] != "validation"
        and split in {None, params["split"]}
    )


def _key(row: Row) -> tuple[Any, ...]:
    return row["name"], row["params"]["model"], row["params"]["channels"]


def _overlap(a: Row, b: Row) -> bool:
    """Whether the intervals meet; a figure that one of them could not measure agrees with none."""
    ends = (a["lo"], a["hi"], b["lo"], b["hi"])
    if any(end is None for end in ends):
        return bool(a["value"] is None and b["value"] is None)
    return bool(a["lo"] <= b["hi"] and b["lo"] <= a["hi"])
