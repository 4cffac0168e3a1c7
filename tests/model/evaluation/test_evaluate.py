"""A whole evaluation on a tiny fleet: what is scored on what, what is kept, what is reported."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.evaluation import ScoredVan
from model.evaluation.agreement import COMPARED, compare
from model.evaluation.conditions import CONDITIONS, DAY_MS, NINE, SIX
from model.evaluation.evaluate import Evaluation, Plan, Workbench, evaluate
from model.evaluation.examples import examples
from model.evaluation.figure_row import Row
from model.evaluation.histogram import INSTANTS
from model.evaluation.report import (
    BEGIN,
    END,
    ReportError,
    document,
    read_published,
    write_into,
    write_report,
)
from model.evaluation.splits import SPLITS, split_fleet
from model.evaluation.streaming import score_fleet, scorings
from model.fleet import FAULT_KINDS, FleetConfig, simulate_vehicle
from model.scoring import Calibration
from tests.model.evaluation.made_up import MotorScorer, TrueTemperatureScorer

# Faults that grow fast in every van, so that two days of six vans hold events.
KINDS = ("coolant_leak", "internal_short")
TEST = FleetConfig(n_vehicles=6, days=2.0, seed=31, faulty_share=1.0, fault_kinds=KINDS, fault_ramp_scale=0.2)
VALIDATION = replace(TEST, seed=32)
PLAN = Plan("test", TEST, VALIDATION, resamples=200)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Two made-up models under every condition; the one plays the product."""
    return evaluate([MotorScorer("mamba"), TrueTemperatureScorer()], PLAN)


@pytest.fixture(scope="module")
def data(evaluation: Evaluation) -> dict[str, object]:
    """Its report.json."""
    return document(evaluation, "emberwatch evaluate", torch.device("cpu"))


def rows(data: dict[str, object], name: str, **params: object) -> list[Row]:
    """Rows of this name whose params include these."""
    found = data["rows"]
    assert isinstance(found, list)
    return [r for r in found if r["name"] == name and all(r["params"].get(k) == v for k, v in params.items())]


def test_the_tiny_fleets_hold_events() -> None:
    """Without events the tests below would say nothing."""
    for fleet in (TEST, VALIDATION):
        assert sum(len(simulate_vehicle(fleet, i).events_ms) for i in range(6)) >= 2


def test_splits_share_no_van_and_no_week() -> None:
    """Seeds differ, and each split starts when the one before has ended."""
    fleets = {name: split_fleet(name, 3) for name in SPLITS}
    assert len({fleet.seed for fleet in fleets.values()}) == 4
    fortnight = 14 * DAY_MS
    assert fleets["validation"].start_ms - fleets["train"].start_ms == fortnight
    assert fleets["test"].start_ms - fleets["validation"].start_ms == fortnight
    with pytest.raises(ValueError, match="split must be one of"):
        split_fleet("holdout", 3)


def test_the_operating_point_does_not_see_the_test_fleet(evaluation: Evaluation) -> None:
    """Another test fleet, the same calibration."""
    other = evaluate(
        [MotorScorer("mamba")], replace(PLAN, fleet=replace(TEST, seed=33, n_vehicles=1), conditions=(NINE,))
    )
    assert other.calibrations["mamba"] == evaluation.calibrations["mamba"]


def test_each_van_is_scored_once_per_transform() -> None:
    """The first day shares its scores with the whole fortnight; groups come in the fleet's order."""
    scorer, seen, done = MotorScorer(), [], []
    first_day = CONDITIONS[1]

    def visit(condition: object, _: object, van: ScoredVan) -> None:
        seen.append((condition, van.vehicle_id, len(van.ts_ms)))

    wanted = [(scorer, (NINE, first_day, SIX))]
    score_fleet(replace(TEST, n_vehicles=3), wanted, visit, lambda _, vans: done.append(vans), group=2)
    assert scorer.calls == 4  # two groups, two transforms
    assert scorings(wanted) * 3 == sum(done)
    assert [van for condition, van, _ in seen if condition is NINE] == ["van-00000", "van-00001", "van-00002"]
    lengths = {(condition, van): n for condition, van, n in seen}
    assert all(n <= DAY_MS / 5_000 for (condition, _), n in lengths.items() if condition is first_day)
    assert all(n > DAY_MS / 5_000 for (condition, _), n in lengths.items() if condition is NINE)


def test_worker_processes_change_nothing(evaluation: Evaluation) -> None:
    """Simulated elsewhere, the same figures."""
    given = {"mamba": evaluation.calibrations["mamba"]}
    plan = replace(PLAN, conditions=(NINE,), fleet=replace(TEST, n_vehicles=2))
    here, there = (evaluate([MotorScorer("mamba")], plan, given, Workbench(workers=n)) for n in (0, 1))
    for a, b in zip(here.judged, there.judged, strict=True):
        assert np.array_equal(a.summary.positive, b.summary.positive)
        assert np.array_equal(a.summary.events, b.summary.events)


def test_finished_parts_are_not_scored_again(tmp_path: Path, evaluation: Evaluation) -> None:
    """A second run takes everything from disk; another operating point or fleet does not."""
    plan = replace(PLAN, conditions=(NINE, SIX))
    bench = Workbench(parts=tmp_path)
    first, second, third = MotorScorer("mamba"), MotorScorer("mamba"), MotorScorer("mamba")
    written = evaluate([first], plan, bench=bench)
    read = evaluate([second], plan, bench=bench)
    assert first.calls == 3
    assert second.calls == 0
    for a, b in zip(written.judged, read.judged, strict=True):
        assert (a.model, a.split, a.condition, a.channels) == (b.model, b.split, b.condition, b.channels)
        assert np.array_equal(a.summary.positive, b.summary.positive)
        assert np.array_equal(a.summary.false_alarms, b.summary.false_alarms)
        assert a.summary.faults.tolist() == b.summary.faults.tolist()
    evaluate([third], plan, {"mamba": Calibration()}, bench)
    assert third.calls == 2
    assert evaluation.calibrations["mamba"] == read.calibrations["mamba"]


def test_a_model_without_operating_point_needs_a_validation_fleet() -> None:
    """Refused before anything is scored."""
    scorer = MotorScorer()
    with pytest.raises(ValueError, match="no operating point for temperature_rule"):
        evaluate([scorer], replace(PLAN, validation=None))
    assert scorer.calls == 0


def test_rows_have_the_promised_names_and_params(data: dict[str, object]) -> None:
    """Every main figure of both models, in six and nine channels, with an interval around it."""
    for name in COMPARED:
        for model in ("mamba", "oracle"):
            for channels in (6, 9):
                (found,) = rows(
                    data, name, model=model, channels=channels, split="test", condition="nominal", fault=None
                )
                assert (
                    found["value"] is None
                    or found["lo"] - 1e-9 <= found["value"] <= found["hi"] + 1e-9
                    or name == "ece"
                )
                assert found["params"]["seed"] == TEST.seed
    assert {row["params"]["condition"] for row in rows(data, "auroc")} == {c.name for c in CONDITIONS}
    assert {row["params"]["fault"] for row in rows(data, "event_recall") if "fault" in row["params"]} <= {
        "healthy",
        *FAULT_KINDS,
    }
    (difference,) = rows(data, "auroc_difference", against="oracle", channels=9)
    plain = {
        m: rows(data, "auroc", model=m, channels=9, split="test", condition="nominal", fault=None)[0]
        for m in ("mamba", "oracle")
    }
    assert difference["value"] == pytest.approx(plain["mamba"]["value"] - plain["oracle"]["value"], abs=2e-5)


def test_the_hidden_temperature_is_not_touched_by_conditions(evaluation: Evaluation) -> None:
    """The oracle scores the same with six channels; the first day has fewer instants."""
    nine, six = evaluation.find("oracle", 9), evaluation.find("oracle", 6)
    first = evaluation.find("oracle", 9, "first_day")
    assert nine is not None
    assert six is not None
    assert first is not None
    assert np.array_equal(nine.summary.positive, six.summary.positive)
    assert first.summary.sums[:, INSTANTS].max() < nine.summary.sums[:, INSTANTS].min()
    assert (first.summary.days <= 1.0).all()


def test_the_report_is_written_and_read_back(evaluation: Evaluation, data: dict[str, object], tmp_path: Path) -> None:
    """JSON that parses, a page with every table, plots that are small; operating points survive."""
    shown = examples(evaluation, MotorScorer("mamba"))
    write_report(evaluation, data, shown, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == data["rows"]
    assert "NaN" not in (tmp_path / "report.json").read_text()
    page = (tmp_path / "report.md").read_text()
    for heading in ("## Targets", "## Nine channels", "## Six channels", "## By kind of fault", "## Operating points"):
        assert heading in page
    plots = list(tmp_path.glob("*.svg"))
    assert all(f"({plot.name})" in page for plot in plots)
    assert {plot.stem for plot in plots} >= {"reliability", "precision-recall", "lead-time"}
    assert sum(plot.stat().st_size for plot in plots) < 400_000
    published = read_published(tmp_path / "report.json")
    assert published.calibrations == evaluation.calibrations


def test_a_page_of_the_docs_keeps_its_own_words(
    evaluation: Evaluation, data: dict[str, object], tmp_path: Path
) -> None:
    """Only what lies between the markers is replaced; a page without them is refused."""
    page = tmp_path / "evaluation.md"
    page.write_text(f"# Title\n\nwords\n\n{BEGIN}\nold\n{END}\n\nend\n")
    write_into(page, evaluation, data, [])
    text = page.read_text()
    assert text.startswith("# Title\n\nwords\n\n")
    assert text.endswith(f"{END}\n\nend\n")
    assert "old" not in text
    assert "(evaluation/reliability.svg)" in text
    page.write_text("# Title\n")
    with pytest.raises(ReportError, match="has no place for the report"):
        write_into(page, evaluation, data, [])


def test_examples_show_what_they_say(evaluation: Evaluation) -> None:
    """The caught event has an alert before it; risk and temperatures cover the same samples."""
    part = evaluation.find("mamba", 9)
    assert part is not None
    shown = {example.kind: example for example in examples(evaluation, MotorScorer("mamba"))}
    assert ("caught" in shown) == part.summary.caught.any()
    assert ("missed" in shown) == (~part.summary.caught).any()
    assert ("false alarm" in shown) == (len(part.summary.false_alarms) > 0)
    assert shown
    for example in shown.values():
        assert len(example.ts_ms) == len(example.risk) == len(example.motor_c) == len(example.pack_c)
        if example.kind != "false alarm":
            assert example.at_ms in example.events_ms
        if example.kind == "caught":
            assert example.fired_ms is not None
            assert example.fired_ms < example.at_ms


def made_row(value: float | None, split: str, **params: object) -> Row:
    """One AUROC of the main table, that small fleets show between 0.8 and 0.98."""
    main = {"model": "mamba", "channels": 9, "split": split, "condition": "nominal", "seed": 1}
    ends = {"lo": 0.93, "hi": 0.97, "small_lo": 0.8, "small_hi": 0.98}
    return {"name": "auroc", "params": {**main, **params}, "value": value, "unit": "1", **ends}


@pytest.mark.parametrize(("value", "agrees"), [(0.95, True), (0.81, True), (0.79, False), (0.99, False), (None, None)])
def test_figures_agree_if_a_small_fleet_would_show_them(value: float | None, agrees: bool | None) -> None:
    """Published: 0.95, and 0.8 to 0.98 in small fleets. Without an event there is nothing to agree about."""
    (found,) = compare([made_row(value, "quick")], [made_row(0.95, "test")], "test")
    assert found.agrees is agrees


def test_only_the_main_tables_are_compared() -> None:
    """Validation, other conditions and kinds of fault are not held against anything."""
    here = made_row(0.9, "quick")
    others = (
        made_row(0.9, "validation"),
        made_row(0.9, "test", condition="dropped_20"),
        made_row(0.9, "test", fault="failing_pump"),
    )
    for other in others:
        assert compare([here], [other], "test") == []


def test_small_fleets_scatter_more_than_the_fleet_itself(data: dict[str, object]) -> None:
    """Their interval is given for the main tables only, and holds the figure."""
    for row in rows(data, "ece", split="test", condition="nominal", fault=None):
        assert row["small_lo"] <= row["value"] <= row["small_hi"]
    assert "small_lo" not in rows(data, "ece", split="validation")[0]
    assert "small_lo" not in rows(data, "ece", condition="dropped_20")[0]
