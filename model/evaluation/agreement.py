"""Whether a smaller evaluation repeats a published one."""

from dataclasses import dataclass
from typing import Any

from model.evaluation.figure_row import Row

COMPARED = ("auroc", "auprc", "f2", "event_recall", "false_alarms_per_vehicle_day", "lead_time_median", "ece")


@dataclass(frozen=True, slots=True)
class Agreement:
    """One figure of both reports."""

    name: str
    model: str
    channels: int
    here: Row
    published: Row
    agrees: bool | None  # None: the small fleet has nothing to measure, no event for instance


def compare(here: list[Row], published: list[Row], split: str) -> list[Agreement]:
    """Figures of the main tables that both reports have.

    A figure agrees if it lies where 99.8 % of the fleets of SMALL_VANS vans drawn from the published fleet have it.
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
            agrees=_within(row["value"], other["small_lo"], other["small_hi"]),
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


def _within(value: float | None, low: float | None, high: float | None) -> bool | None:
    """A figure that no fleet drawn from the published one had, agrees with nothing."""
    if value is None:
        return None
    return low is not None and high is not None and low <= value <= high
