"""A vehicle's trend as it is shown: the ring's closed bins and the head's open one, in order, perhaps merged to coarser ones."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.alert_machine import Phase
from service.engine.trend import BIN_MS, BINS, Bins, TrendLayout
from service.records.checksum import intact
from service.records.head import Heads

DIGITS = 5  # that are shown of a number
PHASES = {int(phase): phase.name.lower() for phase in Phase}


class Window:
    """The bins of one head (1,) between two times, and where in the ring they are."""

    def __init__(self, layout: TrendLayout, head: Heads, from_ms: int | None, to_ms: int | None) -> None:
        self._layout = layout
        current = head["trend"][0]
        self._open = layout.open_bins(head) if current["samples"] and not current["written"] else layout.no_bins()
        newest = int(current["number"])  # the ring has those before it, and itself once it is written
        first = newest - BINS + 1
        last = newest if current["written"] else newest - 1
        self.first = first if from_ms is None else max(first, from_ms // BIN_MS)
        self.last = last if to_ms is None else min(last, to_ms // BIN_MS)
        within = self.first <= newest and (to_ms is None or newest <= to_ms // BIN_MS)
        if not within or not current["samples"]:
            self._open = self._open[:0]
        self.empty = not current["samples"] or self.last < self.first

    def ranges(self) -> list[tuple[int, int]]:
        """First and last byte in the ring of each part that is needed."""
        if self.empty:
            return []
        size, first, n = self._layout.dtype.itemsize, self.first % BINS, self.last - self.first + 1
        parts = [(first, min(first + n, BINS)), (0, first + n - BINS)]
        return [(begin * size, end * size - 1) for begin, end in parts if end > begin]

    def bins(self, data: bytes) -> Bins:
        """The bins, rising; `data` is what the ring has in those ranges."""
        size = self._layout.dtype.itemsize
        found = np.frombuffer(data[: len(data) // size * size], self._layout.dtype)
        number = found["start_ms"] // BIN_MS
        ours = (number >= self.first) & (number <= self.last) & (found["schema"] == self._layout.schema_mark)
        found = found[ours & intact(found)] if len(found) else found
        return np.concatenate([found, self._open])


def merged(bins: Bins, n: int) -> Bins:
    """Bins of n times the length, from rising ones; starts are multiples of the new length."""
    if n == 1 or not len(bins):
        return bins
    number = bins["start_ms"] // (n * BIN_MS)
    firsts = np.flatnonzero(np.diff(number, prepend=number[0] - 1))
    coarse: Bins = bins[np.append(firsts[1:], len(bins)) - 1].copy()  # each one's last tells what is not added up
    coarse["start_ms"] = number[firsts] * n * BIN_MS
    coarse["samples"] = np.add.reduceat(bins["samples"], firsts)
    coarse["risk_max"] = np.maximum.reduceat(bins["risk_max"], firsts)
    coarse["surprise_max"] = np.fmax.reduceat(bins["surprise_max"], firsts)
    known = ~np.isnan(bins["surprise"])
    weights = np.where(known, bins["samples"], 0).astype(np.float64)
    total = np.add.reduceat(np.where(known, bins["surprise"], 0.0) * weights, firsts)
    counted = np.add.reduceat(weights, firsts)
    coarse["surprise"] = np.divide(total, counted, out=np.full(len(firsts), np.nan), where=counted > 0)
    return coarse


def columns(layout: TrendLayout, bins: Bins) -> dict[str, Any]:
    """The bins as columns for orjson, which writes NaN as null."""
    by_channel = {
        field: {name: rounded(bins[field][:, i]) for i, name in enumerate(layout.schema.channel_names)}
        for field in ("values", "forecast", "forecast_scale")
    }
    return {
        "ts_ms": bins["start_ms"].copy(),
        "samples": bins["samples"].copy(),
        "epoch": bins["epoch"].copy(),
        **{name: rounded(bins[name]) for name in ("risk", "risk_max", "surprise", "surprise_max")},
        "phase": [PHASES.get(phase, "inactive") for phase in bins["phase"].tolist()],
        "latitude": rounded(bins["latitude"], 7),
        "longitude": rounded(bins["longitude"], 7),
        **by_channel,
    }


def rounded(column: NDArray[np.float32], digits: int = DIGITS) -> NDArray[np.float64]:
    """To so many significant digits; NaN where not finite."""
    values = np.where(np.isfinite(column), column, np.nan).astype(np.float64)
    size = np.floor(np.log10(np.maximum(np.abs(values), 1e-30), where=~np.isnan(values), out=np.zeros(len(values))))
    unit = 10.0 ** (digits - 1 - size)
    return np.round(values * unit) / unit
