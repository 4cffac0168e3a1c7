"""A study's report says data, splits, seeds, intervals and who won."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from model.studies.contest import Contest
from model.studies.report import Judgement, Plot, Section, StudyReport, write_study

# The first value is the figure, the other four are resamples.
HIGH = np.array([0.90, 0.88, 0.89, 0.91, 0.92])
CLOSE = np.array([0.89, 0.90, 0.86, 0.92, 0.90])
FAR = np.array([0.70, 0.71, 0.69, 0.72, 0.68])
UNKNOWN = np.full(5, np.nan)


def contest(*, higher_is_better: bool = True) -> Contest:
    """Four contenders, one of which measured nothing."""
    values = {"far": FAR, "high": HIGH, "unknown": UNKNOWN, "close": CLOSE}
    return Contest("auroc", {"task": "x"}, values, higher_is_better)


def test_the_best_is_named_with_whom_it_beats_beyond_chance() -> None:
    """Only a paired difference whose interval leaves out zero counts."""
    said = contest().verdict("here")
    assert said.startswith("auroc, here: high is first with 0.900 (0.881 to 0.919)")
    assert "ahead of far beyond chance" in said
    assert said.endswith("not told apart from close.")


def test_where_low_is_good_the_lowest_wins() -> None:
    """Errors, not scores."""
    lowest = contest(higher_is_better=False)
    assert lowest.order == ("far", "close", "high")
    assert lowest.told_apart() == ["close", "high"]


def test_nothing_measured_is_said() -> None:
    """A contest without figures has no winner."""
    empty = Contest("auroc", {}, {"a": UNKNOWN}, higher_is_better=True)
    assert empty.verdict() == "auroc: nothing was measured."
    assert [row["value"] for row in empty.rows()] == [None]


def test_differences_are_paired() -> None:
    """Each resample is compared with itself: a constant lead has no width."""
    lead = Contest("auroc", {}, {"a": HIGH, "b": HIGH - 0.1}, higher_is_better=True)
    (difference,) = lead.differences().values()
    assert (difference["value"], difference["lo"], difference["hi"]) == pytest.approx((0.1, 0.1, 0.1))
    assert difference["params"] == {"model": "a", "against": "b"}


def test_report_on_disk(tmp_path: Path) -> None:
    """JSON has the project's form; the page names data, splits, seeds, intervals and who won, and shows the plots."""
    figure, axes = plt.subplots()
    axes.plot([0, 1])
    report = StudyReport(
        study="made-up",
        title="A made-up study",
        summary="Asked and answered.",
        data={"rows": 1_234.0, "span": "two days"},
        splits={"train": {"drives": 10}, "test": {"drives": 5, "positive": 0.25}},
        seeds={"split": 7},
        resampled="drives",
        resamples=4,
        settings={"days": 7},
        judgements=[Judgement(contest(), "here")],
        sections=[Section("More", "Words.", [Plot("line", "a line", figure)])],
    )
    data = write_study(report, tmp_path, "emberwatch study made-up", torch.device("cpu"))
    assert data == json.loads((tmp_path / "report.json").read_text())
    assert {"commit", "date", "device", "command", "study", "data", "splits", "seeds", "verdicts", "rows"} <= set(data)
    assert [row["params"]["model"] for row in data["rows"][:4]] == ["far", "high", "unknown", "close"]
    page = (tmp_path / "report.md").read_text()
    assert page.startswith("# A made-up study\n\nAsked and answered.\n")
    for said in (
        "Seeds: split 7.",
        "4 resamples of the drives",
        "high is first",
        "| rows | 1,234 |",
        "| train | 10 | - |",
        "| test | 5 | 0.25 |",
        "![a line](line.svg)",
    ):
        assert said in page, said
    assert (tmp_path / "line.svg").read_text().lstrip().startswith("<?xml")
