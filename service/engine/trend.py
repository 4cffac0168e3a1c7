"""The trend: what became of a vehicle in each five minutes of its last 48 hours, at constant size.

The bin under way is a few sums in the head (`OPEN_DTYPE`), changed with every sample and committed with it. The first
sample of another bin closes it: one record, written into the ring `{ew:p}:v:<id>:trend` by the very script that commits
that sample, so that a bin is there exactly once and the store pays once per bin. A bin's place is its number modulo the ring's length; a
record of another lap is told by its time, one that was never written or is damaged by its checksum.
"""

import json
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from model.channels import ChannelSchema
from model.jit import compiled, entry_point_for
from model.normaliser import FleetPrior, shrunk
from model.preprocess import ABSENT, Features
from model.runtime import StepScores
from service.alerting.alerts import Rule
from service.records.checksum import record_dtype, seal
from service.records.head import HeadLayout, Heads
from service.samples import Samples
from service.store.changes import TrendWrite

BIN_MS = 300_000
BINS = 576  # 48 h
THERMAL_RISK = int(Rule.THERMAL_RISK)

Bins = NDArray[np.void]
Longs = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Closed:
    """Bins that a batch closed, in the order of its rows: records (n,), sealed, and each one's vehicle (n,)."""

    bins: Bins
    owner: Longs


def bin_dtype(n: int) -> np.dtype[np.void]:
    """The record of a closed bin with so many channels; values, forecast and its scale are in the channels' units."""
    return record_dtype(
        [
            ("start_ms", "<i8"),
            ("epoch", "<u4"),
            ("schema", "<u4"),  # of the channels: another schema's bins are not shown
            ("check", "<u4"),
            ("samples", "<u4"),
            ("risk", "<f4"),  # after the last sample
            ("risk_max", "<f4"),
            ("surprise", "<f4"),  # mean, nats per channel; NaN where no sample had one
            ("surprise_max", "<f4"),
            ("latitude", "<f4"),  # degrees, NaN without a fix
            ("longitude", "<f4"),
            ("values", "<f4", (n,)),  # last measured in the bin, at most 8 deviations from the mean; NaN if none
            ("forecast", "<f4", (n,)),  # of the sample after the last; NaN before the first
            ("forecast_scale", "<f4", (n,)),  # its Laplace scale
            ("phase", "<u4"),  # of its thermal_risk alert after the last sample
        ]
    )


class TrendLayout:
    """The records of one checkpoint: made in a batch, closed, written."""

    def __init__(self, layout: HeadLayout, schema: ChannelSchema, prior: FleetPrior) -> None:
        n = len(schema.channels)
        named = json.dumps([(channel.name, channel.unit) for channel in schema.channels])
        self.schema = schema
        self.schema_mark = zlib.crc32(named.encode())
        self.dtype = bin_dtype(n)
        self._layout = layout
        self._prior = np.array([prior.mean, prior.std], np.float64)
        self._prior_weight = float(prior.prior_weight)
        names = schema.signal_names
        columns = [names.index(name) if name in names else ABSENT for name in ("latitude", "longitude")]
        self._position = np.array(columns, np.int64)
        self._advance = self._compiled_advance()
        self._of_heads = entry_point_for(
            _bins_of_heads, records(layout.dtype), doubles(2), numba.float64, records(self.dtype)
        )

    @property
    def ring_bytes(self) -> int:
        """Length of a ring that has gone round."""
        return BINS * self.dtype.itemsize

    def advance(
        self,
        before: Heads,
        heads: Heads,
        lengths: Longs,
        samples: Samples,
        features: Features,
        scores: StepScores,
        nats: NDArray[np.float64],
        phase: NDArray[np.uint8],
    ) -> Closed:
        """Take a batch's samples into the open bins of `heads`, in place; what they close.

        Args:
            before: (vehicles,) the heads before the batch.
            heads: (vehicles,) whose preprocessing has taken the samples.
            lengths: (vehicles,) samples of each.
            samples: (rows,) vehicle after vehicle.
            features: of the rows.
            scores: of the rows.
            nats: (rows,) surprise, NaN where there is none.
            phase: (rows,) of the thermal_risk alert after each.
        """
        bins, owner = np.zeros(len(samples), self.dtype), np.empty(len(samples), np.int64)
        n = self._advance(
            before,
            heads,
            lengths,
            samples.ts_ms,
            samples.signals,
            self._position,
            features.inputs,
            scores.forecast_mean,
            scores.forecast_log_scale,
            scores.risk,
            nats,
            phase,
            self._prior,
            self._prior_weight,
            bins,
            owner,
        )
        return Closed(self._sealed(bins[:n]), owner[:n])

    def no_bins(self) -> Bins:
        """(0,)."""
        return np.zeros(0, self.dtype)

    def open_bins(self, heads: Heads) -> Bins:
        """(vehicles,) the bins under way as they would be closed now; those without samples start in 1970."""
        bins = np.zeros(len(heads), self.dtype)
        self._of_heads(heads, self._prior, self._prior_weight, bins)
        return self._sealed(bins)

    def writes(self, closed: Closed) -> dict[int, list[TrendWrite]]:
        """Where closed bins go, by vehicle."""
        found: dict[int, list[TrendWrite]] = {}
        size, data = self.dtype.itemsize, closed.bins.tobytes()
        offsets = (closed.bins["start_ms"] // BIN_MS % BINS * size).tolist()
        for i, (owner, offset) in enumerate(zip(closed.owner.tolist(), offsets, strict=True)):
            write = TrendWrite(offset, data[i * size : (i + 1) * size], self.ring_bytes)
            found.setdefault(owner, []).append(write)
        return found

    def replacing(self, ring: bytes) -> list[TrendWrite]:
        """The writes after which this ring, or none, is the vehicle's."""
        gone = TrendWrite(0, b"", self.ring_bytes)
        return [gone, TrendWrite(0, ring, self.ring_bytes)] if ring else [gone]

    def _sealed(self, bins: Bins) -> Bins:
        if len(bins):
            bins["schema"] = self.schema_mark
            seal(bins)
        return bins

    def _compiled_advance(self) -> Any:
        heads, longs, singles = records(self._layout.dtype), numba.types.Array(numba.int64, 1, "C"), numba.float32
        given = numba.types.Array(numba.int64, 1, "C", readonly=True)
        rows = numba.types.Array(singles, 2, "A", readonly=True)
        return entry_point_for(
            _advance_bins,
            heads,
            heads,
            given,
            given,
            doubles(2, readonly=True),
            longs,
            rows,
            rows,
            rows,
            doubles(1, readonly=True),
            doubles(1, readonly=True),
            numba.types.Array(numba.uint8, 1, "A", readonly=True),
            doubles(2),
            numba.float64,
            records(self.dtype),
            longs,
        )


def records(dtype: np.dtype[np.void]) -> Any:
    """The compiled code's type of records."""
    return numba.types.Array(numba.from_dtype(dtype), 1, "C")


def doubles(ndim: int, *, readonly: bool = False) -> Any:
    """The compiled code's type of float64."""
    return numba.types.Array(numba.float64, ndim, "C", readonly=readonly)


def written(head: Heads) -> None:
    """Note in a head (1,) that its open bin is in the ring; what comes in the same bin replaces it there."""
    head["trend"]["written"] = 1


def _advance_bins(
    before: Any,
    heads: Any,
    lengths: Any,
    ts_ms: Any,
    signals: Any,
    position: Any,
    inputs: Any,
    forecast_mean: Any,
    forecast_log_scale: Any,
    risk: Any,
    nats: Any,
    phase: Any,
    prior: Any,
    prior_weight: Any,
    bins: Any,
    owner: Any,
) -> Any:
    """Row after row; how many bins were closed. `position`: columns of latitude and longitude in `signals`."""
    row, n_closed = 0, 0
    for vehicle in range(len(lengths)):
        head = heads[vehicle]
        current, first = head["trend"], row
        bin_row = row  # the first row of the open bin in this batch
        for _ in range(lengths[vehicle]):
            number = ts_ms[row] // BIN_MS
            if current["samples"] > 0 and number != current["number"]:
                if current["written"] == 0:
                    record = bins[n_closed]
                    bin_of_head(record, before[vehicle], current, prior, prior_weight)
                    if row > first:
                        last = row - 1
                        record["epoch"] = head["epoch"]
                        record["risk"], record["phase"] = risk[last], phase[last]
                        position_of_rows(record, signals, position, bin_row, last)
                        for i in range(prior.shape[1]):
                            mean, std = shrunk(
                                head["preprocess"]["normaliser"], i, prior[0, i], prior[1, i], prior_weight
                            )
                            z = last_z(inputs, i, prior.shape[1], bin_row, last)
                            if not math.isnan(z):
                                record["values"][i] = mean + z * std
                            record["forecast"][i] = mean + forecast_mean[last, i] * std
                            record["forecast_scale"][i] = math.exp(forecast_log_scale[last, i]) * std
                    owner[n_closed] = vehicle
                    n_closed += 1
                current["samples"] = 0
            take_row(current, number, risk[row], nats[row])
            if current["samples"] == 1:
                bin_row = row
            row += 1
    return n_closed


def _bins_of_heads(heads: Any, prior: Any, prior_weight: Any, bins: Any) -> None:
    """The open bin of each head as a record; those without samples stay as they are."""
    for vehicle in range(len(heads)):
        current = heads[vehicle]["trend"]
        if current["samples"] > 0:
            bin_of_head(bins[vehicle], heads[vehicle], current, prior, prior_weight)


@compiled
def take_row(current: Any, number: int, risk: float, nats: float) -> None:
    """One sample into the open bin, in place."""
    if current["samples"] == 0:
        current["number"] = number
        current["surprises"] = 0
        current["surprise_sum"] = 0.0
        current["risk_max"] = current["surprise_max"] = -np.inf
    current["samples"] += 1
    current["written"] = 0
    current["risk_max"] = max(current["risk_max"], risk)
    if not math.isnan(nats):
        current["surprises"] += 1
        current["surprise_sum"] += nats
        current["surprise_max"] = max(current["surprise_max"], nats)


@compiled
def bin_of_head(record: Any, head: Any, current: Any, prior: Any, prior_weight: float) -> None:
    """The sums of an open bin, and everything else as the head that has its last sample tells it."""
    start_ms = current["number"] * BIN_MS
    some = current["surprises"] > 0
    record["start_ms"], record["samples"] = start_ms, current["samples"]
    record["risk_max"] = current["risk_max"]
    record["surprise"] = current["surprise_sum"] / current["surprises"] if some else np.nan
    record["surprise_max"] = current["surprise_max"] if some else np.nan
    record["epoch"], record["risk"] = head["epoch"], head["risk"]
    record["phase"] = head["alert"][THERMAL_RISK]["phase"]
    past = head["preprocess"]
    record["latitude"], record["longitude"] = past["kalman"]["latitude"], past["kalman"]["longitude"]
    for i in range(prior.shape[1]):
        mean, std = shrunk(past["normaliser"], i, prior[0, i], prior[1, i], prior_weight)
        held = past["held_ts_ms"][i] >= start_ms
        record["values"][i] = mean + past["held_z"][i] * std if held else np.nan
        record["forecast"][i] = mean + head["forecast_mean"][i] * std
        record["forecast_scale"][i] = math.exp(head["forecast_log_scale"][i]) * std


@compiled
def last_z(inputs: Any, channel: int, n_channels: int, first: int, last: int) -> float:
    """The last z-score of a channel that was measured in the rows first to last; NaN if there is none."""
    for row in range(last, first - 1, -1):
        if inputs[row, n_channels + channel] != 0.0:
            return float(inputs[row, channel])
    return np.nan


@compiled
def position_of_rows(record: Any, signals: Any, position: Any, first: int, last: int) -> None:
    """The last fix of the rows first to last, as measured; what is there stays where there is none."""
    if position[0] == ABSENT or position[1] == ABSENT:
        return
    for row in range(last, first - 1, -1):
        if not math.isnan(signals[row, position[0]]):
            record["latitude"], record["longitude"] = signals[row, position[0]], signals[row, position[1]]
            return
