"""The report of a study: report.json for programs, report.md and plots for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from model.drawing import save
from model.evaluation.document import provenance, write_json
from model.evaluation.figure_row import Row
from model.evaluation.tables import table
from model.studies.contest import Contest


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure and its words; it is saved as `name`.svg and closed."""

    name: str
    title: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: prose and tables in Markdown, then plots."""

    title: str
    text: str
    plots: Sequence[Plot] = ()


@dataclass(frozen=True, slots=True)
class Judgement:
    """A contest and the words that tell where it was held."""

    contest: Contest
    where: str = ""
    digits: int = 3


@dataclass(frozen=True, slots=True)
class StudyReport:
    """Everything that every study must say, and what only this one has to say."""

    study: str  # its name on the command line
    title: str
    summary: str  # what was asked and what came out, in a few plain sentences
    data: Mapping[str, str | float]  # what was read: sizes, spans, units
    splits: Mapping[str, Mapping[str, str | float]]  # by name: its sizes and spans, the same keys in each
    seeds: Mapping[str, int]
    resampled: str  # what the intervals resample, as a plural: drives, windows, vans
    resamples: int
    settings: Mapping[str, Any]  # the configuration, as JSON takes it
    judgements: Sequence[Judgement]  # who won; their rows are added to `rows`
    rows: Sequence[Row] = ()
    sections: Sequence[Section] = field(default_factory=tuple)

    def verdicts(self) -> list[str]:
        """Who won, a line each."""
        return [one.contest.verdict(one.where, one.digits) for one in self.judgements]


def document(report: StudyReport, command: str, device: torch.device) -> dict[str, Any]:
    """The whole of report.json."""
    rows = [row for one in report.judgements for row in one.contest.rows()]
    return {
        **provenance(command, device),
        "study": report.study,
        "data": dict(report.data),
        "splits": {name: dict(split) for name, split in report.splits.items()},
        "seeds": dict(report.seeds),
        "resamples": {"number": report.resamples, "of": report.resampled},
        "settings": dict(report.settings),
        "verdicts": report.verdicts(),
        "rows": rows + list(report.rows),
    }


def page(report: StudyReport, head: Mapping[str, Any]) -> str:
    """report.md; `head` is the document that it belongs to."""
    seeds = ", ".join(f"{name} {seed}" for name, seed in report.seeds.items())
    columns = list(dict.fromkeys(key for split in report.splits.values() for key in split))
    parts = [
        f"# {report.title}",
        report.summary,
        f"Command: `{head['command']}`  \nDate: {head['date']}, commit {head['commit']}, {head['device']}.",
        f"Seeds: {seeds}. Intervals: 95 %, {report.resamples} resamples of the {report.resampled}.",
        "## Who won\n\n" + "\n".join(f"- {verdict}" for verdict in report.verdicts()),
        "## Data\n\n" + table(("", ""), ([name, _cell(value)] for name, value in report.data.items())),
        "## Splits\n\n"
        + table(
            ("split", *columns),
            ([name, *(_cell(split.get(column, "-")) for column in columns)] for name, split in report.splits.items()),
        ),
    ]
    for section in report.sections:
        parts += [f"## {section.title}", section.text]
        parts += [f"![{plot.title}]({plot.name}.svg)" for plot in section.plots]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def write_study(report: StudyReport, folder: Path, command: str, device: torch.device) -> dict[str, Any]:
    """report.json, report.md and the plots in one folder; returns what report.json holds."""
    folder.mkdir(parents=True, exist_ok=True)
    data = document(report, command, device)
    for plot in (plot for section in report.sections for plot in section.plots):
        save(plot.figure, folder / f"{plot.name}.svg")
    write_json(data, folder / "report.json")
    (folder / "report.md").write_text(page(report, data))
    return data
