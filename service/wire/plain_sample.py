"""The commonest request of all, one sample with nothing wrong: checked value by value, where columns cost ten times as much.

It only ever says yes. Whatever it does not take, for whatever reason, goes the way of all others (service/wire/decode_columns.py), which
alone knows what is wrong with it.
"""

import numpy as np

from service.samples import CURRENT_EPOCH, NO_SEQ, Samples
from service.wire.decode_columns import MAX_EPOCH, MAX_SEQ, SignalTable
from service.wire.decode_times import EARLIEST_MS, LATEST_MS

FIELDS = frozenset({"ts", "seq", "epoch", "signals"})


class PlainSample:
    """Reads samples with one checkpoint's signals under their own names."""

    def __init__(self, table: SignalTable) -> None:
        low, high = table.minimum.tolist(), table.maximum.tolist()
        self._known = {name: (i, low[i], high[i]) for i, name in enumerate(table.names)}
        self._blank = [float("nan")] * len(table.names)
        self._fix = None if table.latitude is None or table.longitude is None else (table.latitude, table.longitude)

    def read(self, data: dict[str, object], vehicle_id: str) -> Samples | None:
        """The sample (1,) of a vehicle; None unless it is well and simple: ts in milliseconds, integers, numbers, no other names."""
        ts, seq, epoch, signals = (
            data.get("ts"),
            data.get("seq", NO_SEQ),
            data.get("epoch", CURRENT_EPOCH),
            data.get("signals"),
        )
        if not (type(ts) is type(seq) is type(epoch) is int and type(signals) is dict and data.keys() <= FIELDS):
            return None
        if not (EARLIEST_MS <= ts <= LATEST_MS and NO_SEQ <= seq <= MAX_SEQ and CURRENT_EPOCH <= epoch <= MAX_EPOCH):
            return None
        if (seq == NO_SEQ and "seq" in data) or (epoch == CURRENT_EPOCH and "epoch" in data):
            return None
        values = self._values(signals)
        if values is None:
            return None
        return Samples.of(
            [vehicle_id],
            np.array([ts], np.int64),
            np.array([seq], np.int64),
            np.array([epoch], np.int64),
            np.array([values], np.float64),
        )

    def _values(self, signals: dict[str, object]) -> list[float] | None:
        """In the schema's order, NaN where absent."""
        values, known = self._blank.copy(), self._known
        for name, value in signals.items():
            if not isinstance(value, int | float) or type(value) is bool or name not in known:
                return None
            place, low, high = known[name]
            if not low <= value <= high:
                return None
            values[place] = value
        fix = self._fix
        alone = fix is not None and (values[fix[0]] == values[fix[0]]) != (values[fix[1]] == values[fix[1]])
        return None if alone or not signals else values
