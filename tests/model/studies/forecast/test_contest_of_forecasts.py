"""Splits, windows and targets; the contenders on series whose best forecast is known; figures against their definitions."""

import numpy as np
import pytest
import torch

from model.baselines.stateful_training import NeuralConfig
from model.studies.forecast.contenders import (
    Autoregression,
    NetworkForecast,
    NetworkSizes,
    Persistence,
    build,
    squared_error,
    trained,
)
from model.studies.forecast.judging import UNIT_STEPS, judge, pooled_skill, units_of, weights_of
from model.studies.forecast.scales import Floats, Scales
from model.studies.forecast.series import Segment, Series
from model.studies.forecast.study import Settings, enlarged
from model.studies.forecast.windows import (
    SHARES,
    WARMUP,
    Piece,
    Rows,
    Task,
    as_pieces,
    moves,
    split_in_time,
    typical_moves,
    windows,
)
from model.training.config import TrainingConfig

CPU = torch.device("cpu")
PLAIN = Scales(("none", "none"), np.array([3.0, -1.0]), np.array([2.0, 0.5]))


def task_of(values: Floats, horizons: tuple[int, ...] = (1, 5), context: int = 256) -> Task:
    """A task of one piece whose z-scores are `values`."""
    (piece,) = as_pieces([Segment("x", PLAIN.values(values))], PLAIN)
    return Task([piece], horizons, typical_moves([piece], horizons), context, context // 4)


def a_walk(n: int = 800) -> Floats:
    """A random walk and a damped oscillation, whose best forecasts are known; the same in every run."""
    rng = np.random.default_rng(5)
    wave = np.zeros(n)
    for t in range(2, n):
        wave[t] = 1.6 * wave[t - 1] - 0.8 * wave[t - 2] + rng.standard_normal()
    return np.column_stack((np.cumsum(rng.standard_normal(n)), wave))


def test_splits_go_forward_in_time_and_keep_whole_files() -> None:
    """Every row is in one split; few files are cut where the shares end, many are not cut."""
    one = Series(("a",), {}, 1.0, (Segment("x", np.arange(1_000.0)[:, None]),))
    parts = split_in_time(one)
    assert [len(part[0].values) for part in parts.values()] == [600, 150, 250]
    np.testing.assert_array_equal(np.concatenate([part[0].values for part in parts.values()]), one.segments[0].values)
    many = Series(("a",), {}, 1.0, tuple(Segment(f"{i:02}", np.ones((150 + i, 1))) for i in range(20)))
    sources = [[segment.source for segment in part] for part in split_in_time(many).values()]
    assert [source for of in sources for source in of] == list(many.sources)
    assert all(len(of) >= 3 for of in sources)
    assert list(SHARES) == ["train", "validation", "test"]
    with pytest.raises(ValueError, match="300 rows are too few: no segment of the validation, test part"):
        split_in_time(Series(("a",), {}, 1.0, (Segment("x", np.ones((300, 1))),)))


def test_windows_overlap_and_every_step_is_judged_once() -> None:
    """By the window that has seen most; a piece shorter than the context is one window."""
    pieces = [Piece("x", np.zeros((n, 1)), np.zeros((n, 1))) for n in (1_000, 300, 100, WARMUP)]
    found = windows(pieces, context=256, stride=64)
    for i, piece in enumerate(pieces):
        judged = np.zeros(len(piece), int)
        for window in (window for window in found if window.piece == i):
            assert window.stop - window.start == min(256, len(piece))
            assert window.start <= window.judged
            judged[window.judged : window.stop] += 1
        np.testing.assert_array_equal(judged, np.arange(len(piece)) >= WARMUP)
    starts = [window.start for window in found if window.piece == 0]
    assert starts == [*range(0, 744, 64), 744]


def test_gaps_are_held_in_the_inputs_and_masked_in_the_targets() -> None:
    """A target counts only where origin and goal were measured; it is the move from the held value."""
    values = np.arange(20.0)[:, None] * np.ones((1, 2))
    values[7, 0] = np.nan
    (piece,) = as_pieces([Segment("x", PLAIN.values(values))], PLAIN)
    np.testing.assert_allclose(piece.held[6:9, 0], [6.0, 6.0, 8.0])
    moved = moves(piece, (1, 3))
    assert np.isnan(moved[[6, 7, 19], 0, 0]).all()
    assert np.isnan(moved[[4, 7, 17, 18], 1, 0]).all()
    assert np.nansum(~np.isnan(moved[:, 0, 0])) == 17
    np.testing.assert_allclose(moved[:17, 1, 1], 3.0)


def test_a_batch_holds_inputs_and_targets_of_its_windows() -> None:
    """Held z-scores once for every horizon, then what was measured; targets beyond the window's end are known."""
    values = a_walk(400)
    values[130:133, 1] = np.nan
    task = task_of(values, context=128)
    chosen = [window for window in task.windows() if window.start in {64, 128}]
    batch = Rows(task, CPU).batch(chosen)
    (piece,) = task.pieces
    every = task.targets(piece)
    for row, window in enumerate(chosen):
        own = slice(window.start, window.stop)
        np.testing.assert_allclose(batch.inputs[row, :, :4], np.tile(piece.held[own], 2), rtol=1e-6)
        np.testing.assert_array_equal(batch.inputs[row, :, 4:], piece.present[own])
        np.testing.assert_array_equal(batch.present[row], ~np.isnan(every[own]))
        np.testing.assert_allclose(batch.z[row], np.nan_to_num(every[own]), rtol=1e-6)
    assert batch.fresh.all()


def test_nobody_beats_persistence_on_a_random_walk_and_the_wave_is_learned() -> None:
    """The autoregression finds the wave's known error, on rows that it has not seen, and nothing in the walk."""
    every = a_walk(6_000)
    train, validation, test = (task_of(part, (1,)) for part in (every[:3_000], every[3_000:4_000], every[4_000:]))
    autoregression = Autoregression(train, validation)
    assert autoregression.order >= 4
    judged = {
        "persistence": judge(test, PLAIN, Persistence().moves(test)),
        "autoregression": judge(test, PLAIN, autoregression.moves(test)),
    }
    weights = np.ones((1, len(judged["persistence"].sums)))
    still, linear = (one.figures(weights) for one in judged.values())
    assert (still["skill"] == 0.0).all()
    assert still["r2"][0, 0, 0] > 0.99
    assert abs(linear["skill"][0, 0, 0]) < 0.03
    assert linear["mse"][0, 0, 1] == pytest.approx(0.25, rel=0.1)  # the shocks' variance, in the feature's unit
    assert linear["skill"][0, 0, 1] > 0.5
    left = 1.0 - linear["skill"][0, 0]
    moved = np.nanmean(test.targets(test.pieces[0])[WARMUP:] ** 2, axis=0)  # what persistence misses, in typical moves
    expected = 1.0 - (left * moved).sum() / moved.sum()
    assert pooled_skill(judged, weights, 0)["autoregression"][0] == pytest.approx(expected, rel=1e-6)


def test_too_few_units_have_no_interval() -> None:
    """Resampling one block would give an interval of no width and call every difference certain."""
    values = a_walk(400)
    task = task_of(values, (1,))
    one = judge(task, PLAIN, [np.ones((400, 2))])
    figures = one.figures(weights_of(len(one.sums), 20))
    assert np.isfinite(figures["skill"][0]).all()
    assert np.isnan(figures["skill"][1:]).all()
    assert np.isfinite(weights_of(5, 20)).all()


def test_figures_are_their_definitions_on_any_weights() -> None:
    """Against plain formulas over the judged rows, with units counted as often as their weights say."""
    values = a_walk(64 + 3 * UNIT_STEPS)
    values[100:110, 0] = np.nan
    task = task_of(values, (2,))
    rng = np.random.default_rng(0)
    moved = [rng.standard_normal((len(values), 2))]
    (units,), what = units_of(task)
    assert what == f"blocks of {UNIT_STEPS} steps"
    weights = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0]])
    figures = judge(task, PLAIN, moved).figures(weights)
    piece, target = task.pieces[0], task.targets(task.pieces[0])
    for r, row in enumerate(weights):
        for f in range(2):
            known = ~np.isnan(target[:, f]) & (np.arange(len(values)) >= WARMUP)
            w, t, m = row[units[known]], target[known, f], moved[0][known, f]
            base = piece.held[known, f]
            truth, said = ((base + x * task.unit[0, f]) * PLAIN.std[f] + PLAIN.mean[f] for x in (t, m))
            error = said - truth
            mean = np.average(truth, weights=w)
            expected = {
                "skill": 1 - (w * (m - t) ** 2).sum() / (w * t**2).sum(),
                "mse": np.average(error**2, weights=w),
                "rmse": np.sqrt(np.average(error**2, weights=w)),
                "mae": np.average(np.abs(error), weights=w),
                "mape": 100 * np.average(np.abs(error / truth), weights=w),
                "r2": 1 - (w * error**2).sum() / (w * (truth - mean) ** 2).sum(),
            }
            for name, value in expected.items():
                assert figures[name][r, 0, f] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "transformer"])
def test_a_network_forecasts_each_step_from_what_came_before(name: str) -> None:
    """What comes later changes nothing, padding changes nothing, and the judged steps are those of the windows."""
    torch.manual_seed(0)
    sizes = NetworkSizes(d_model=8, n_layer=1, d_state=4, head_dim=8, attention=64)
    task = task_of(a_walk(500), context=256)
    network = build(name, sizes, task, CPU)
    forecast = NetworkForecast(network, NeuralConfig(), CPU)
    (moved,) = forecast.moves(task)
    assert np.isfinite(moved).all()
    assert not moved[:WARMUP].any()
    cut = Task([Piece("x", task.pieces[0].z[:400], task.pieces[0].held[:400])], task.horizons, task.unit, 256, 64)
    (shorter,) = forecast.moves(cut)
    np.testing.assert_allclose(shorter[WARMUP:256], moved[WARMUP:256], rtol=1e-3, atol=1e-5)


def test_full_is_larger_and_the_transformer_sees_the_window() -> None:
    """What `--full` changes and what it leaves."""
    settings = Settings(bars=5_000, context=4_096, seed=3)
    larger = enlarged(settings)
    assert larger.sizes.attention == 4_096
    assert larger.steps > settings.steps
    assert (larger.bars, larger.context, larger.stride, larger.seed) == (5_000, 4_096, 1_024, 3)


def test_training_learns_the_wave() -> None:
    """A small Mamba-2 network takes a good part of the error away after a few steps; the same seed repeats it."""
    wave = a_walk(2_600)[:, 1] / 4.0
    values = np.column_stack((wave[:1_300], wave[1_300:]))
    train, validation = (task_of(part, (1,), context=128) for part in (values[:900], values[900:]))
    training = TrainingConfig(
        seed=1, length=128, batch=4, pretrain_steps=0, finetune_steps=30, learning_rate=2e-2, warmup_steps=5,
        validate_every=15, average_decay=0.9,
    )  # fmt: skip
    sizes = NetworkSizes(d_model=16, n_layer=1, d_state=8, head_dim=8)
    forecast, history = trained("mamba2", sizes, train, validation, training, CPU)
    after = squared_error(forecast, validation)
    assert after < 0.85 * squared_error(Persistence(), validation)
    assert [-entry["validation_error"] for entry in history if "validation_error" in entry][-1] >= after - 1e-9
    with pytest.raises(ValueError, match="networks are mamba1, mamba2, transformer"):
        build("lstm", sizes, train, CPU)
