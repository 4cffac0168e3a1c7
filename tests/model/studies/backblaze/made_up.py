"""A tiny sample in the layout in which Backblaze distributes its drive statistics."""

import gzip
import zipfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np

FIRST = date(2013, 4, 10)
OLD = ("smart_1_normalized", "smart_1_raw", "smart_5_normalized", "smart_5_raw", "smart_9_raw", "smart_197_raw")
NEW = (*OLD, "smart_187_raw", "smart_194_raw", "datacenter")
HEAD = ("date", "serial_number", "model", "capacity_bytes", "failure")
MODELS = ("ST3000DM001", "Hitachi HDS722020ALA330")


def failure_day(drive: int, days: int) -> int | None:
    """Every second drive fails: half of these before the middle, half after."""
    if drive % 2:
        return None
    return 4 + drive % 8 if drive % 4 else days - 2 - drive % 8


def day_of(day: int, drives: int, days: int, columns: tuple[str, ...]) -> Iterator[list[str]]:
    """Rows of one day: reallocated sectors grow in the last days of a drive that fails."""
    rng = np.random.default_rng(day)
    for drive in range(drives):
        end = failure_day(drive, days)
        if end is not None and day > end:
            continue
        left = 99 if end is None else end - day
        raw = {"1": rng.integers(10**8), "5": max(0, 8 - left) * 40, "9": 9_000 + 24 * day, "197": max(0, 6 - left) * 8}
        raw |= {"187": max(0, 5 - left), "194": 25 + rng.integers(5)}
        cells = [
            "" if name == "datacenter" else str(raw[name.split("_")[1]] if name.endswith("_raw") else 100)
            for name in columns
        ]
        stamp = str(FIRST + timedelta(days=day))
        yield [stamp, f"Z{drive:04d}", MODELS[drive % 3 == 0], "3000592982016", str(int(left == 0)), *cells]


def text_of(day: int, drives: int, days: int, columns: tuple[str, ...]) -> str:
    """One daily file."""
    rows = [[*HEAD, *columns], *day_of(day, drives, days, columns)]
    return "".join(",".join(row) + "\n" for row in rows)


def write_sample(folder: Path, drives: int = 36, days: int = 24) -> Path:
    """The first half zipped with a Mac's leavings and fewer columns, then plain files and gzipped ones."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "data_Q2_2013.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for day in range(days // 2):
            name = f"{FIRST + timedelta(days=day)}.csv"
            archive.writestr(f"data_Q2_2013/{name}", text_of(day, drives, days, OLD))
            archive.writestr(f"__MACOSX/data_Q2_2013/._{name}", b"\x00\x05\x16\x07")
    for day in range(days // 2, days):
        path = folder / f"{FIRST + timedelta(days=day)}.csv"
        text = text_of(day, drives, days, NEW)
        if day % 2:
            path.write_text(text)
        else:
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(text.encode()))
    return folder
