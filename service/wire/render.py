"""Answers as JSON, straight from their columns."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from model.alert_machine import Phase
from service.samples import ACCEPTED, NO_SEQ, Answers, FieldError, Status

WORDS = tuple(status.word for status in Status)
PHASES = {int(phase): phase.name.lower() for phase in Phase}


def items(answers: Answers, rows: NDArray[np.int64] | None = None) -> list[dict[str, Any]]:
    """The answers to these rows (all: None) as plain data; what there is nothing to tell of is left out."""
    at: list[int] = list(range(len(answers))) if rows is None else rows.tolist()
    pick: Any = slice(None) if rows is None else rows
    columns = zip(
        at,
        answers.status[pick].tolist(),
        answers.seq[pick].tolist(),
        answers.risk[pick].tolist(),
        answers.surprise[pick].tolist(),
        answers.phase[pick].tolist(),
        answers.warming_up[pick].tolist(),
        strict=True,
    )
    found = []
    for i, status, seq, risk, surprise, phase, warming_up in columns:
        item: dict[str, Any] = {"i": i, "status": WORDS[status]}
        if seq != NO_SEQ:
            item["seq"] = seq
        if risk == risk:  # noqa: PLR0124  (not NaN)
            item["risk"] = risk
        if surprise == surprise:  # noqa: PLR0124
            item["surprise"] = surprise
        if phase >= 0:
            item["phase"] = PHASES[phase]
        if warming_up >= 0:
            item["warming_up"] = warming_up == 1
        found.append(item)
    for i, item in zip(at, found, strict=True) if answers.reasons or answers.errors else ():
        if i in answers.reasons:
            item["reason"] = answers.reasons[i]
        if i in answers.errors:
            item["errors"] = fields(answers.errors[i])
    return found


def fields(errors: Iterable[FieldError]) -> list[dict[str, str]]:
    """Field errors as plain data."""
    return [{"field": error.field, "reason": error.reason} for error in errors]


def summary(answers: Answers, *, minimal: bool) -> bytes:
    """The answer to several samples; `minimal`: only the items that were not applied."""
    applied = int((answers.status == Status.APPLIED).sum())
    accepted = int(np.isin(answers.status, ACCEPTED).sum())
    rows = np.flatnonzero(answers.status != Status.APPLIED) if minimal else None
    return orjson.dumps(
        {
            "applied": applied,
            "duplicate": accepted - applied,
            "rejected": len(answers) - accepted,
            "items": items(answers, rows),
        }
    )
