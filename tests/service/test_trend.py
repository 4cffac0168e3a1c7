"""The trend: 48 hours in bins of five minutes, each sample in it once, whoever computes it and however it is sent."""

import asyncio
import itertools
from typing import Any

import httpx
import numpy as np
import pytest

from model.checkpoint import Checkpoint
from service.engine.trend import BIN_MS, BINS, Bins
from service.engine.vehicle_transfer import Precondition
from service.overview.trend_view import Window, merged
from service.samples import CURRENT_EPOCH, NO_SEQ, Samples
from tests.processes import ValkeyProcess
from tests.service.conftest import START_MS, sample
from tests.service.workers import Worker, run, words, worker

PER_BIN = BIN_MS // 5_000
FIRST_BIN = -(-START_MS // BIN_MS) * BIN_MS  # the first that begins after the fixtures' first sample
AT = (FIRST_BIN - START_MS) // 5_000  # and the sample that it begins with


async def trend(one: Worker, vehicle: str, from_ms: int | None = None, to_ms: int | None = None) -> Bins:
    """The vehicle's bins as the route reads them."""
    window = Window(one.engine.context.trends, await one.head(vehicle), from_ms, to_ms)
    ranges = window.ranges()
    return window.bins(await one.store.trend(vehicle, ranges) if ranges else b"")


def at_times(one: Worker, vehicle: str, ts_ms: "np.ndarray[Any, Any]") -> Samples:
    """A drive with samples at these times, each with signals of its own."""
    names = one.checkpoint.schema.signal_names
    signals = [[sample(i)["signals"].get(name, np.nan) for name in names] for i in range(len(ts_ms))]
    n = len(ts_ms)
    return Samples.of([vehicle] * n, ts_ms, np.full(n, NO_SEQ), np.full(n, CURRENT_EPOCH), np.array(signals))


def test_bins_tell_what_the_samples_were(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Counts, last and highest risk, surprise and last values of each bin are those of its samples; the open bin is shown."""
    one = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        answers = [await one.apply((vehicle, i)) for i in range(AT + 2 * PER_BIN + 7)]
        bins = await trend(one, vehicle)
        assert bins["samples"].tolist() == [AT, PER_BIN, PER_BIN, 7]
        assert bins["start_ms"].tolist() == [FIRST_BIN + k * BIN_MS for k in range(-1, 3)]
        risk = np.array([a.risk[0] for a in answers], np.float32)
        surprise = np.array([a.surprise[0] for a in answers])
        ends = np.cumsum(bins["samples"])
        for bin_, (begin, end) in zip(bins, itertools.pairwise([0, *ends]), strict=True):
            assert bin_["risk"] == risk[end - 1]
            assert bin_["risk_max"] == risk[begin:end].max()
            assert bin_["surprise"] == pytest.approx(np.nanmean(surprise[begin:end]), rel=1e-4)
            assert bin_["surprise_max"] == pytest.approx(np.nanmax(surprise[begin:end]), rel=1e-6)
            for name in ("state_of_charge", "motor_temperature"):
                value = bin_["values"][checkpoint.schema.channel_names.index(name)]
                assert value == pytest.approx(sample(int(end) - 1)["signals"][name], rel=1e-3, abs=1e-3), name
            assert np.isnan(bin_["values"][checkpoint.schema.channel_names.index("pack_current")])
            assert bin_["longitude"] == pytest.approx(11.0, abs=1e-3)
            assert np.isfinite(bin_["forecast"]).all()
            assert (bin_["forecast_scale"] > 0).all()

    run([one], scenario)


def test_a_run_makes_the_same_bins_as_single_samples(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """However the samples are cut into batches, and wherever a worker takes over, the bins agree."""
    one, other = worker(valkey.url, checkpoint), worker(valkey.url, checkpoint)
    n = AT + 3 * PER_BIN + 11

    async def scenario() -> None:
        await one.stream(f"{vehicle}-singly", 0, n)
        await one.run(f"{vehicle}-runs", 0, 100)
        await other.run(f"{vehicle}-runs", 100, 101)
        await one.run(f"{vehicle}-runs", 101, n)
        singly, runs = await trend(one, f"{vehicle}-singly"), await trend(other, f"{vehicle}-runs")
        assert len(singly) == len(runs) == 5
        for name in singly.dtype.names or ():
            # Units come from the vehicle's statistics as they were at the sample, or at the end of its run.
            tolerance = 0.02 if name in {"values", "forecast", "forecast_scale"} else 2e-3
            if name != "check":
                np.testing.assert_allclose(runs[name], singly[name], rtol=tolerance, atol=tolerance, err_msg=name)

    run([one, other], scenario)


def test_two_workers_and_retries_count_each_sample_once(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Two workers that are sent the same samples at once make bins with each sample in them once."""
    one, other = worker(valkey.url, checkpoint), worker(valkey.url, checkpoint)
    n = AT + PER_BIN + 9

    async def scenario() -> None:
        for first in range(0, n, 13):
            part = [(vehicle, i) for i in range(first, min(first + 13, n))]
            both = await asyncio.gather(one.apply(*part), other.apply(*part))
            assert {"applied", "duplicate"} >= {word for answers in both for word in words(answers)}
        bins = await trend(one, vehicle)
        assert bins["samples"].tolist() == [AT, PER_BIN, 9]

    run([one, other], scenario)


def test_a_backfill_of_three_days_leaves_the_last_two(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """The ring goes round: 48 hours up to the last sample are there, complete, at the length that the card states."""
    one = worker(valkey.url, checkpoint)
    ts_ms = FIRST_BIN + np.arange(0, 72 * 3_600_000, 150_000, dtype=np.int64)

    async def scenario() -> None:
        samples = at_times(one, vehicle, ts_ms)
        for first in range(0, len(ts_ms), 512):
            await one.engine.apply(samples.take(np.arange(first, min(first + 512, len(ts_ms)))))
        bins = await trend(one, vehicle)
        assert len(bins) == BINS
        assert set(bins["samples"].tolist()) == {2}
        assert (np.diff(bins["start_ms"]) == BIN_MS).all()
        assert bins["start_ms"][-1] == ts_ms[-1] // BIN_MS * BIN_MS
        ring = valkey.client.strlen(one.store._keys(vehicle).trend)
        assert ring == one.engine.context.trends.ring_bytes
        part = await trend(one, vehicle, int(ts_ms[-1]) - 3_600_000, int(ts_ms[-1]) - 1_800_000)
        assert len(part) == 7
        assert part.tobytes() == bins[-13:-6].tobytes()

    run([one], scenario)


def test_a_gap_leaves_bins_out_and_an_old_lap_is_not_shown(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """After 50 silent hours nothing of before is left, although the ring still has it; after ten it is there, with a hole."""
    one = worker(valkey.url, checkpoint)
    hour = 3_600_000

    async def scenario() -> None:
        for start in (0, 10 * hour, 60 * hour):
            ts_ms = FIRST_BIN + start + np.arange(0, 2 * BIN_MS, 60_000, dtype=np.int64)
            await one.engine.apply(at_times(one, vehicle, ts_ms))
            starts = (await trend(one, vehicle))["start_ms"] - FIRST_BIN
            expected = {0: [0], 10 * hour: [0, 10 * hour], 60 * hour: [60 * hour]}[start]
            assert starts.tolist() == [at + k * BIN_MS for at in expected for k in range(2)]

    run([one], scenario)


def test_a_reset_keeps_the_past_and_erasure_does_not(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A new session goes on in the same bin with the old one's highest risk; erasing leaves no key behind."""
    one = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        await one.run(vehicle, AT, AT + PER_BIN + 10)
        before = await trend(one, vehicle)
        await one.engine.reset(vehicle)
        assert (await trend(one, vehicle)).tobytes() == before.tobytes()
        await one.run(vehicle, AT + PER_BIN + 10, AT + PER_BIN + 15)
        after = await trend(one, vehicle)
        assert after["samples"].tolist() == [PER_BIN, 15]
        assert after["epoch"].tolist() == [1, 2]
        assert after["risk_max"][1] >= before["risk_max"][1]
        assert valkey.client.exists(one.store._keys(vehicle).trend)
        await one.engine.transfer.erase(vehicle, Precondition())
        assert not valkey.client.keys(f"*{vehicle}*")

    run([one], scenario)


def test_coarser_bins_lose_no_maximum(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Merged bins have the sum of samples, the last risk and the highest of each."""
    one = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        ts_ms = FIRST_BIN + np.arange(0, 40 * BIN_MS, 60_000, dtype=np.int64)
        await one.engine.apply(at_times(one, vehicle, ts_ms))
        fine = await trend(one, vehicle)
        coarse = merged(fine, 12)
        assert (coarse["start_ms"] % (12 * BIN_MS) == 0).all()
        assert coarse["samples"].sum() == fine["samples"].sum()
        assert coarse["risk_max"].max() == fine["risk_max"].max()
        assert coarse["risk"][-1] == fine["risk"][-1]
        mean = np.average(fine["surprise"], weights=fine["samples"])
        assert np.average(coarse["surprise"], weights=coarse["samples"]) == pytest.approx(mean, rel=1e-5)

    run([one], scenario)


def test_the_call(http: httpx.Client, vehicle: str) -> None:
    """Columns of one length, an entity tag that spares a second reading, and refusals that name the parameter."""
    path = f"/v1/vehicles/{vehicle}/trend"
    assert http.get(path).status_code == 404
    assert http.post(f"/v1/vehicles/{vehicle}/sessions").status_code == 201
    assert http.get(path).json()["columns"]["ts_ms"] == []
    http.post(f"/v1/vehicles/{vehicle}/telemetry", json=[sample(i) for i in range(150)])
    answer = http.get(path)
    columns = answer.json()["columns"]
    lengths = {len(values) for column in columns.values() for values in _lists(column)}
    assert lengths == {len(columns["ts_ms"])}
    assert sum(columns["samples"]) == 150
    assert columns["values"]["pack_current"][-1] is None
    assert answer.json()["units"]["motor_temperature"] == "degC"
    assert http.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert len(http.get(path, params={"resolution": 3600}).json()["columns"]["ts_ms"]) <= 2
    for wrong, field in (
        ({"from": 2, "to": 1}, "from"),
        ({"resolution": 301}, "resolution"),
        ({"from": "soon"}, "from"),
    ):
        refused = http.get(path, params=wrong)
        assert refused.status_code == 422
        assert field in refused.json()["detail"]


def _lists(column: Any) -> list[Any]:
    return list(column.values()) if isinstance(column, dict) else [column]


def test_an_export_brings_the_trend_along(http: httpx.Client, vehicle: str) -> None:
    """Exported, erased and imported, a vehicle has the trend that it had."""
    http.post(f"/v1/vehicles/{vehicle}/telemetry", json=[sample(i) for i in range(200)])
    path = f"/v1/vehicles/{vehicle}"
    before = http.get(f"{path}/trend").json()
    exported = http.get(f"{path}/state").content
    assert http.delete(path).status_code == 204
    assert http.get(f"{path}/trend").status_code == 404
    put = http.put(f"{path}/state", content=exported, headers={"Content-Type": "application/vnd.emberwatch.vehicle"})
    assert put.status_code == 201
    assert http.get(f"{path}/trend").json() == before
