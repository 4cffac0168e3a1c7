"""Figures and tables as Markdown."""

from collections.abc import Iterable

from model.evaluation.figure_row import Row

DIGITS = {"lead_time_median": 0, "auroc": 4, "brier": 5, "ece": 5, "ece_equal_mass": 5}


def shown(row: Row, digits: int | None = None) -> str:
    """A figure with its interval; `digits` after the point are those of its name unless given."""
    digits = DIGITS.get(row["name"], 3) if digits is None else digits
    if row["value"] is None:
        return "-"
    if row.get("lo") is None:
        return f"{row['value']:.{digits}f}"
    return f"{row['value']:.{digits}f} ({row['lo']:.{digits}f} to {row['hi']:.{digits}f})"


def table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
