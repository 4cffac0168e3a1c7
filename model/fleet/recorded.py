"""Readers for the public recordings the pack model is fitted to. Nothing here is shipped; the data stay where they are.

Origins: BMW i3 trips, TU Munich, 'Battery and Heating Data in Real Driving Cycles' (IEEE DataPort, CC BY 4.0);
a LeafSpy log, ericthobbs/TripViewer (MIT); Nissan Leaf cell discharges, batterysim/equiv-circ-model (MIT).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PackRecording:
    """One trip or one cell test, n rows at a fixed `period_s`. Currents are positive on discharge."""

    name: str
    period_s: float
    current_a: Series  # (n,)
    voltage_v: Series  # (n,) pack, or one cell in a cell test
    charge: Series  # (n,) state of charge, 0 to 1
    temperature_c: Series  # (n,) pack thermistors' mean; the cell's surface in a cell test
    ambient_c: Series  # (n,)
    speed_mps: Series  # (n,)
    aircon_w: Series  # (n,) electrical power of the air conditioning; zero where not recorded


def read_bmw_i3(folder: Path) -> list[PackRecording]:
    """All trips below `folder`/bmw_i3, by name. Raises FileNotFoundError when there are none."""
    paths = sorted((folder / "bmw_i3").glob("Trip*.csv.gz"))
    if not paths:
        raise FileNotFoundError(f"no BMW i3 trips in {folder / 'bmw_i3'}")
    return [_bmw_trip(path) for path in paths]


def _bmw_trip(path: Path) -> PackRecording:
    with gzip.open(path, "rt") as lines:
        columns = next(lines).strip().split(",")
        table = np.genfromtxt(lines, delimiter=",")
    table = table[~np.isnan(table).any(axis=1)]
    column = {name: table[:, i] for i, name in enumerate(columns)}
    return PackRecording(
        name=path.name.removesuffix(".csv.gz"),
        period_s=1.0,
        current_a=-column["pack_current_a"],  # recorded with discharge negative
        voltage_v=column["pack_voltage_v"],
        charge=column["state_of_charge_pct"] / 100,
        temperature_c=column["pack_temperature_c"],
        ambient_c=column["ambient_temperature_c"],
        speed_mps=column["speed_kmh"] / 3.6,
        aircon_w=1_000 * column["aircon_power_kw"],
    )


def read_leaf(folder: Path) -> PackRecording:
    """The LeafSpy drive below `folder`/leaf, resampled to exactly 5 s. The third thermistor is absent in this car."""
    (path,) = (folder / "leaf").glob("leafspy_*.csv.gz")
    with gzip.open(path, "rt") as lines:
        rows = list(csv.DictReader(lines))

    def column(name: str) -> Series:
        return np.array([float(row[name]) for row in rows])

    seconds = column("epoch time")
    grid = np.arange(seconds[0], seconds[-1], 5.0)

    def at_grid(values: Series) -> Series:
        return np.interp(grid, seconds, values)

    thermistors = (column("Pack T1 C") + column("Pack T2 C") + column("Pack T4 C")) / 3
    return PackRecording(
        name=path.name.removesuffix(".csv.gz"),
        period_s=5.0,
        current_a=at_grid(column("Pack Amps")),
        voltage_v=at_grid(column("Pack Volts")),
        charge=at_grid(column("SOC")) / 1e6,
        temperature_c=at_grid(thermistors),
        ambient_c=at_grid((column("Ambient") - 32) / 1.8),
        speed_mps=at_grid(column("Speed")) * 0.44704,  # mph: agrees with motor RPM through the 8.19 gear
        aircon_w=np.zeros_like(grid),
    )


def read_ornl_cell(folder: Path) -> Iterator[PackRecording]:
    """The 1C, 2C and 3C tests of one Leaf cell below `folder`/ornl_leaf_cell, at the thermocouples' 3 s.

    The thermocouple files have no clock. Rows times 3 s equals the cycler's duration in the 1C and 2C tests, so 3 s it is;
    the 3C file stops after the first discharge.
    """
    for rate in ("1c", "2c", "3c"):
        cycler = folder / "ornl_leaf_cell" / f"cell-discharge-bitrode-{rate}.csv.gz"
        thermo = folder / "ornl_leaf_cell" / f"cell-discharge-temperature-{rate}.lvm.gz"
        with gzip.open(cycler, "rt") as lines:
            rows = list(csv.DictReader(lines))
        seconds = np.array([float(row["Time(s)"]) for row in rows])
        current = -np.array([float(row["Current(A)"]) for row in rows])
        volts = np.array([float(row["Voltage(V)"]) for row in rows])
        with gzip.open(thermo, "rt") as lines:
            celsius = np.loadtxt(lines)
        grid = 3.0 * np.arange(min(len(celsius), int(seconds[-1] / 3)))
        celsius = celsius[: grid.size]
        flow = np.interp(grid, seconds, current)
        capacity_ah = 30.3
        charge = np.cumsum(flow) * 3.0 / 3_600 / capacity_ah
        yield PackRecording(
            name=f"ornl-{rate}",
            period_s=3.0,
            current_a=flow,
            voltage_v=np.interp(grid, seconds, volts),
            charge=charge.max() - charge if rate == "1c" else 1.0 - charge,
            temperature_c=celsius[:, :3].mean(axis=1),
            ambient_c=celsius[:, 3],
            speed_mps=np.zeros_like(grid),
            aircon_w=np.zeros_like(grid),
        )
