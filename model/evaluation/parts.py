"""Finished parts of a long evaluation on disk, so that it can be cut off, resumed, and put together from machines.

A part is found again only if whatever decides its content is the same: fleet, rule, model, operating point.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from model.evaluation.alerts import AlertRule
from model.evaluation.conditions import Condition
from model.evaluation.scorer import Scorer
from model.evaluation.summary import Summary
from model.fleet import FleetConfig
from model.scoring import Calibration

VERSION = 2  # raised whenever the same scores would give another summary or operating point


class Parts:
    """A folder of parts; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, rule: AlertRule) -> None:
        self._folder = folder
        self._rule = rule

    def calibration(self, scorer: Scorer, fleet: FleetConfig) -> Calibration | None:
        """The operating point chosen on this fleet, if it was kept."""
        file = self._calibration_file(scorer, fleet)
        return Calibration(**json.loads(file.read_text())) if file is not None and file.exists() else None

    def keep_calibration(self, scorer: Scorer, fleet: FleetConfig, calibration: Calibration) -> None:
        """Keep an operating point."""
        file = self._calibration_file(scorer, fleet)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(asdict(calibration)))

    def summary(
        self, scorer: Scorer, fleet: FleetConfig, condition: Condition, calibration: Calibration
    ) -> Summary | None:
        """The summary at this operating point, if it was kept."""
        file = self._summary_file(scorer, fleet, condition, calibration)
        return Summary.load(file) if file is not None and file.exists() else None

    def keep_summary(
        self, scorer: Scorer, fleet: FleetConfig, condition: Condition, calibration: Calibration, summary: Summary
    ) -> None:
        """Keep a summary."""
        file = self._summary_file(scorer, fleet, condition, calibration)
        if file is not None:
            summary.save(file)

    def _calibration_file(self, scorer: Scorer, fleet: FleetConfig) -> Path | None:
        return self._file(f"{scorer.name}-operating-point", ".json", self._described(scorer, fleet))

    def _summary_file(
        self, scorer: Scorer, fleet: FleetConfig, condition: Condition, calibration: Calibration
    ) -> Path | None:
        described = {**self._described(scorer, fleet), "condition": condition.name, "channels": condition.channels}
        described["calibration"] = asdict(calibration)
        return self._file(f"{scorer.name}-{condition.channels}-{condition.name}", ".npz", described)

    def _described(self, scorer: Scorer, fleet: FleetConfig) -> dict[str, object]:
        return {
            "version": VERSION,
            "scorer": scorer.name,
            "fingerprint": fingerprint_of(scorer),
            "fleet": asdict(fleet),
            "rule": asdict(self._rule),
        }

    def _file(self, name: str, suffix: str, described: dict[str, object]) -> Path | None:
        if self._folder is None:
            return None
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{name}-{digest}{suffix}"


def fingerprint_of(scorer: Scorer) -> str:
    """What tells one version of a model from another; empty for models without weights."""
    return str(getattr(scorer, "fingerprint", ""))
