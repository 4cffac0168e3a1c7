"""The report on disk: report.json for programs, report.md and plots for people, and the same page inside the docs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from model.evaluation.document import provenance, write_json
from model.evaluation.evaluate import Evaluation
from model.evaluation.examples import Example
from model.evaluation.figure_row import Row
from model.evaluation.markdown import page
from model.evaluation.plots import draw_all
from model.evaluation.rows import rows_of
from model.scoring import Calibration

BEGIN = "<!-- report: written by emberwatch evaluate -->"
END = "<!-- end of report -->"


class ReportError(ValueError):
    """A published report cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a smaller evaluation needs of a report."""

    rows: list[Row]
    calibrations: Mapping[str, Calibration]
    fingerprints: Mapping[str, str]


def document(evaluation: Evaluation, command: str, device: torch.device) -> dict[str, Any]:
    """The whole of report.json."""
    plan = evaluation.plan
    return {
        **provenance(command, device),
        "fleets": {
            plan.split: asdict(plan.fleet),
            **({"validation": asdict(plan.validation)} if plan.validation is not None else {}),
        },
        "rule": asdict(plan.rule),
        "resamples": {"number": plan.resamples, "seed": plan.resample_seed},
        "fingerprints": dict(evaluation.fingerprints),
        "operating_points": {model: asdict(point) for model, point in evaluation.calibrations.items()},
        "rows": rows_of(evaluation),
    }


def write_report(evaluation: Evaluation, data: dict[str, Any], shown: Sequence[Example], folder: Path) -> None:
    """report.json, report.md and the plots in one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw_all(evaluation, shown, folder)
    write_json(data, folder / "report.json")
    (folder / "report.md").write_text("# Evaluation\n\n" + page(evaluation, data["rows"], data, plots, ""))


def write_into(document_file: Path, evaluation: Evaluation, data: dict[str, Any], shown: Sequence[Example]) -> None:
    """Put the report between the markers of a page of the docs, its plots into the folder named after the page.

    Raises:
        ReportError: the page has no markers.
    """
    text = document_file.read_text()
    if BEGIN not in text or END not in text:
        raise ReportError(f"{document_file} has no place for the report: it needs the lines {BEGIN} and {END}")
    folder = document_file.with_suffix("")
    plots = draw_all(evaluation, shown, folder)
    body = page(evaluation, data["rows"], data, plots, f"{folder.name}/").replace("\n## ", "\n### ")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    document_file.write_text(f"{before}{BEGIN}\n\n{body}\n{END}{after}")


def read_published(file: Path) -> Published:
    """A report that was written before.

    Raises:
        ReportError: there is none, or it is not a report.
    """
    try:
        data = json.loads(file.read_text())
        return Published(
            rows=data["rows"],
            calibrations={model: Calibration(**point) for model, point in data["operating_points"].items()},
            fingerprints=data["fingerprints"],
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"no readable report at {file}: {error}") from error
