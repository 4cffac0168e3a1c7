"""What counts, who is held apart from whom, and the whole study on a tiny sample."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from model.baselines.stateful_training import stream
from model.studies.backblaze import config as configuration
from model.studies.backblaze.classification import parts_of
from model.studies.backblaze.config import BackblazeConfig
from model.studies.backblaze.drives import NO_FAILURE, Drives, Seen
from model.studies.backblaze.inputs import fit_normaliser, panel, rolling, rolling_names, undersampled
from model.studies.backblaze.loader import load
from model.studies.backblaze.networks import NETWORKS, make_network
from model.studies.backblaze.published import Claim
from model.studies.backblaze.splits import cut_day, folds
from model.studies.backblaze.training import neural_config, outputs
from service.cli import app

from .made_up import write_sample

TINY = BackblazeConfig(
    horizon_days=3, folds=3, clusters=3, negatives=3.0, d_model=8, n_layer=1, d_state=4, window=6, steps=2, batch=8,
    validate_every=2, trees=10, resamples=20,
)  # fmt: skip


def drives_of(days: list[list[int]], failure: list[int], n_days: int) -> Drives:
    """Drives that were seen on these days; the one attribute is the day."""
    day = np.concatenate(days)
    return Drives(
        serials=np.array([f"S{i}" for i in range(len(days))]),
        models=np.array(["A", "B"] * len(days))[: len(days)],
        failure_day=np.array(failure),
        starts=np.concatenate(([0], np.cumsum([len(one) for one in days]))),
        day=day,
        values=day[:, None].astype(np.float32),
        attributes=(5,),
        first_date=date(2013, 4, 10),
        n_days=n_days,
        seen=Seen(1, len(day), len(days), 0, 0),
    )


def test_the_last_days_before_a_failure_are_positive() -> None:
    """The day of the failure included; a drive that lives has none."""
    drives = drives_of([[0, 1, 3, 4], [0, 1, 2, 3]], [4, NO_FAILURE], 8)
    assert drives.label(2).tolist() == [False, False, True, True, False, False, False, False]
    assert drives.days_left[:4].tolist() == [4, 3, 1, 0]


def test_a_day_counts_once_its_label_is_known() -> None:
    """Known before the end of the period, positive or not; what disappeared says nothing of its last days."""
    drives = drives_of([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3]], [5, NO_FAILURE], 6)
    whole, part = drives.counted(2, 0, 6).tolist(), drives.counted(2, 1, 4).tolist()
    assert (whole[:6], whole[6:]) == ([True] * 5 + [False], [True] * 3 + [False])
    assert (part[:6], part[6:]) == ([False, True, True, False, False, False], [False, True, True, False])


def test_folds_share_no_drive_and_each_is_tested_once(tmp_path: Path) -> None:
    """Train, validation and test are disjoint, cover all drives, and each has failures on both sides of the cut."""
    drives = load(write_sample(tmp_path), TINY)
    cut, tested = cut_day(drives, TINY), []
    for fold in folds(drives, TINY):
        together = np.concatenate([fold.train, fold.validation, fold.test])
        assert sorted(together) == list(range(len(drives)))
        tested += fold.test.tolist()
        for part in (fold.train, fold.validation, fold.test):
            end = drives.failure_day[part]
            assert (end >= cut).any()
            assert ((end >= 0) & (end < cut)).any()
    assert sorted(tested) == list(range(len(drives)))


def test_too_few_failures_or_days_are_refused(tmp_path: Path) -> None:
    """The message says what there is and what would do."""
    drives = load(write_sample(tmp_path), TINY)
    with pytest.raises(ValueError, match=r"9 drives fail before day 12, which is too few for 10 folds"):
        next(folds(drives, replace(TINY, folds=10)))
    with pytest.raises(ValueError, match="24 days are too few"):
        next(folds(drives, replace(TINY, horizon_days=7)))


def test_a_fold_without_a_positive_day_is_refused() -> None:
    """Its drives fail before the cut, but were first seen too late for a day that counts."""
    failing = [[5]] * 3 + [[11]] * 3
    drives = drives_of([*failing, *[list(range(12))] * 6], [5] * 3 + [11] * 3 + [NO_FAILURE] * 6, 12)
    with pytest.raises(ValueError, match="the training drives of a fold have no counted day of one kind"):
        parts_of(drives, next(folds(drives, TINY)), TINY)


def test_normalising_knows_nothing_of_later_days() -> None:
    """What comes after the cut changes no statistics; a model never seen gets the fleet's."""
    drives = drives_of([list(range(10)), list(range(10))], [NO_FAILURE] * 2, 10)
    later = replace(drives, values=np.where(drives.day[:, None] < 5, drives.values, 1e6))
    one, other = (fit_normaliser(d, 5, 2) for d in (drives, later))
    assert np.array_equal(one.mean, other.mean)
    assert np.array_equal(one.spread, other.spread)
    assert one.mean[0] == pytest.approx(2.0)
    stranger = replace(drives, models=np.array(["Z", "Z"]))
    np.testing.assert_allclose(one(stranger)[:5, 0], (np.arange(5) - 2.0) / np.sqrt(2.0), rtol=1e-5)


def test_rolling_features_are_those_of_seven_days() -> None:
    """Mean, deviation and change over the last seven days, gaps counted as time."""
    days = [0, 1, 2, 3, 4, 5, 6, 7, 9]
    drives = drives_of([days], [NO_FAILURE], 12)
    table = rolling(drives, drives.values)
    assert rolling_names((5,)) == ("smart_5", "smart_5_mean7", "smart_5_deviation7", "smart_5_change7")
    last = np.array([3.0, 4, 5, 6, 7, 9])
    np.testing.assert_allclose(table[-1], [9.0, last.mean(), last.std(), 7.0], rtol=1e-5)
    assert np.isnan(table[6, 3])
    np.testing.assert_allclose(table[7], [7.0, 4.0, 2.0, 7.0], rtol=1e-5)


def test_undersampling_keeps_positives_and_every_kind_of_negative() -> None:
    """About as many negatives as asked, in the clusters' proportions, a rare kind included; the rest is untouched."""
    z = np.concatenate((np.zeros((900, 1)), np.full((10, 1), 5.0), np.full((30, 1), -9.0))).astype(np.float32)
    z += np.random.default_rng(0).normal(0, 0.01, z.shape).astype(np.float32)
    label = np.zeros(940, np.bool_)
    label[910:] = True
    counted = np.ones(940, np.bool_)
    counted[:5] = False
    chosen = undersampled(z, label, counted, replace(TINY, clusters=2, negatives=3.0))
    assert chosen[label].all()
    assert not chosen[:5].any()
    assert 85 <= chosen[~label].sum() <= 95
    assert chosen[900:910].any()
    assert np.array_equal(chosen, undersampled(z, label, counted, replace(TINY, clusters=2, negatives=3.0)))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_day_is_judged_by_the_days_up_to_it(name: str) -> None:
    """Causal: later days change nothing; and pieces with the state carried equal the whole."""
    drives = drives_of([list(range(12))] * 2, [NO_FAILURE] * 2, 12)
    seen = panel(drives, np.random.default_rng(1).normal(size=(24, 1)).astype(np.float32))
    cpu = torch.device("cpu")
    network = make_network(name, 2, TINY, cpu).eval()
    inputs, ratio = torch.from_numpy(seen.inputs), torch.from_numpy(seen.ratio)
    with torch.no_grad():
        whole = network(inputs, ratio, network.initial_state(2, cpu))[0].risk_logit  # type: ignore[operator]
        changed = inputs.clone()
        changed[:, 8:] += 3.0
        other = network(changed, ratio, network.initial_state(2, cpu))[0].risk_logit  # type: ignore[operator]
        state, parts = network.initial_state(2, cpu), []  # type: ignore[operator]
        for piece in (slice(0, 5), slice(5, 12)):
            output, state = network(inputs[:, piece], ratio[:, piece], state)
            parts.append(output.risk_logit)
    torch.testing.assert_close(whole[:, :8], other[:, :8], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(whole[:, 8:], other[:, 8:])
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_a_day_is_told_by_the_window_that_ends_with_it() -> None:
    """As if each window were all there is; days that were not asked for stay 0."""
    drives = drives_of([list(range(9)), list(range(4))], [NO_FAILURE] * 2, 9)
    seen = panel(drives, np.random.default_rng(2).normal(size=(13, 1)).astype(np.float32))
    cpu, settings = torch.device("cpu"), neural_config(replace(TINY, window=3), "bce", 0.5)
    network = make_network("lstm", 2, TINY, cpu)
    asked = np.array([False, True, True, True, True, False, True, True, True, True, False, False, True])
    told = outputs(network, seen, asked, settings, cpu)
    assert not told[~asked].any()
    for row, (drive, day) in enumerate([*((0, day) for day in range(9)), *((1, day) for day in range(4))]):
        if asked[row]:
            own = slice(max(day - 2, 0), day + 1)
            alone = stream(network, seen.inputs[[drive], own], seen.ratio[[drive], own], cpu, settings)
            assert told[row] == pytest.approx(alone[0, -1], rel=1e-4, abs=1e-5)


def test_a_published_claim_needs_an_interval_that_leaves_out_zero() -> None:
    """Borne out, contradicted, or cannot be told."""
    for centre, verdict in ((0.5, "borne out"), (-0.5, "contradicted"), (0.0, "cannot be told")):
        ours = centre + np.linspace(-0.1, 0.1, 41)
        assert Claim("a above b", 0.01, ours).verdict == verdict
    assert Claim("a above b", 0.01, np.full(5, np.nan)).verdict == "not measured"


def test_the_command_writes_a_whole_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny sample in the real layout: Markdown, JSON, plots; data, splits, seeds, intervals and who won."""
    monkeypatch.setattr("model.studies.backblaze.BackblazeConfig", lambda: TINY)
    out = tmp_path / "out"
    folder = write_sample(tmp_path / "data")
    command = ["study", "backblaze", "--data", str(folder), "--out", str(out), "--folds", "3", "--resamples", "20"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    data = json.loads((out / "report.json").read_text())
    figures = {(row["name"], row["params"].get("model"), row["params"].get("loss")) for row in data["rows"]}
    for network in NETWORKS:
        for loss in configuration.LOSSES:
            for name in ("auroc", "precision", "recall", "f1", "f2"):
                assert (name, network, loss) in figures
        for name in ("mae", "rmse", "r2", "within_5_days", "within_10_days"):
            assert (name, network, None) in figures
    assert ("auroc", "lightgbm", "bce") in figures
    assert all(row["lo"] <= row["value"] <= row["hi"] for row in data["rows"] if row["name"] == "mae")
    assert data["resamples"] == {"number": 20, "of": "drives"}
    assert len(data["splits"]) == 2
    page = (out / "report.md").read_text()
    for heading in (
        "Who won",
        "Data",
        "Splits",
        "Beside the published figures",
        "What can be concluded and what cannot",
    ):
        assert f"\n## {heading}\n" in page
    for plot in ("auroc.svg", "days-to-failure.svg"):
        assert f"]({plot})" in page
        assert (out / plot).stat().st_size < 100_000


def test_bad_data_end_the_command_with_one_line(tmp_path: Path) -> None:
    """Exit code 2 and the place of the bad cell, no traceback."""
    folder = write_sample(tmp_path / "data", days=4)
    (folder / "2013-04-13.csv").write_text((folder / "2013-04-13.csv").read_text().replace("Z0003,", "Z0003,,"))
    result = CliRunner().invoke(app, ["study", "backblaze", "--data", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "2013-04-13.csv, row 4: has 15 cells, the header has 14" in result.output.replace("\n", "")
    assert not (tmp_path / "out").exists()
