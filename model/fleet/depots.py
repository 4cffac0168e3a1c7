"""Depots in several cities, the weather each fleet shares there, and the ground around them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.fleet.limits import SAMPLE_PERIOD_S

DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Depot:
    """Where vans sleep. Climate figures are round numbers near published monthly normals."""

    name: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float
    annual_mean_c: float
    seasonal_k: float  # half the difference between the warmest and the coldest month
    diurnal_k: float  # half the difference between afternoon and dawn
    hill_m: float  # amplitude of the terrain
    hill_length_m: float  # wavelength of the terrain

    @property
    def utc_offset_ms(self) -> int:
        """Local time, taken as the nautical zone of the longitude."""
        return round(self.longitude_deg / 15.0) * 3_600_000


DEPOTS = (
    Depot("munich", 48.14, 11.56, 520.0, 10.0, 10.5, 5.5, 25.0, 9_000.0),
    Depot("madrid", 40.42, -3.70, 650.0, 15.5, 10.5, 7.0, 60.0, 9_000.0),
    Depot("phoenix", 33.45, -112.07, 330.0, 24.0, 11.0, 7.5, 30.0, 12_000.0),
    Depot("denver", 39.74, -104.99, 1_600.0, 11.0, 12.5, 8.0, 130.0, 16_000.0),
    Depot("oslo", 59.91, 10.75, 25.0, 7.0, 11.0, 4.5, 90.0, 9_000.0),
    Depot("osaka", 34.69, 135.50, 10.0, 17.0, 11.5, 4.0, 45.0, 9_000.0),
    Depot("seville", 37.39, -5.98, 10.0, 19.5, 9.0, 7.5, 25.0, 9_000.0),
    Depot("austin", 30.27, -97.74, 150.0, 20.5, 9.5, 6.0, 35.0, 9_000.0),
    Depot("melbourne", -37.81, 144.96, 30.0, 15.0, 5.5, 5.5, 40.0, 9_000.0),
    Depot("innsbruck", 47.27, 11.39, 580.0, 10.0, 10.0, 6.0, 190.0, 20_000.0),
)


def local_day_start_ms(depot: Depot, start_ms: int) -> int:
    """Epoch ms of the local midnight at or before `start_ms`."""
    local = start_ms + depot.utc_offset_ms
    return local - local % DAY_MS - depot.utc_offset_ms


def solar_elevation_share(depot: Depot, start_ms: int, n: int) -> NDArray[np.float64]:
    """(n,) sine of the sun's elevation, zero at night. Source: Cooper 1969 for the declination."""
    t_ms = start_ms + np.arange(n, dtype=np.float64) * SAMPLE_PERIOD_S * 1_000
    declination = np.deg2rad(23.45) * np.sin(2 * np.pi * (_day_of_year(t_ms) + 284) / 365)
    hour_angle = 2 * np.pi * ((t_ms / DAY_MS) % 1.0 - 0.5) + np.deg2rad(depot.longitude_deg)
    latitude = np.deg2rad(depot.latitude_deg)
    sine = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(hour_angle)
    above: NDArray[np.float64] = np.maximum(sine, 0.0)
    return above


def ambient_temperature(depot: Depot, start_ms: int, n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n,) degC in the shade at the depot: season, day and night, passing weather, now and then a heat wave.

    `rng` is the depot's own, so that all its vans share one weather.
    """
    t_ms = start_ms + np.arange(n, dtype=np.float64) * SAMPLE_PERIOD_S * 1_000
    hour = ((t_ms + depot.longitude_deg / 360 * DAY_MS) / DAY_MS) % 1.0 * 24
    warmest_day = 200.0 if depot.latitude_deg > 0 else 18.0
    season = depot.seasonal_k * np.cos(2 * np.pi * (_day_of_year(t_ms) - warmest_day) / 365.25)
    day = depot.diurnal_k * np.cos(2 * np.pi * (hour - 15.0) / 24)
    return depot.annual_mean_c + season + day + _passing_weather(n, rng)


def _passing_weather(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n,) K: a red-noise anomaly with a correlation time of two days, and heat waves once in three weeks."""
    hours = np.arange(n // 720 + 3)
    anomaly = np.empty(hours.size)
    value = 2.5 * rng.standard_normal()
    for i in range(hours.size):
        anomaly[i] = value
        value = 0.979 * value + 0.51 * rng.standard_normal()
    for start in np.flatnonzero(rng.random(hours.size) < 1 / 500):
        length, height = rng.uniform(48, 120), rng.uniform(4.0, 9.0)
        anomaly += height * np.clip(np.minimum(hours - start, start + length - hours) / 18, 0, 1)
    return np.interp(np.arange(n) / 720, hours, anomaly)


def _day_of_year(t_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    return (t_ms / DAY_MS) % 365.2425


def to_wgs84(
    depot: Depot, east_m: NDArray[np.float64], north_m: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(latitude_deg, longitude_deg) of local offsets, on the tangent plane of the WGS84 ellipsoid at the depot."""
    latitude = np.deg2rad(depot.latitude_deg)
    squash = 1.0 - 6.69437999014e-3 * np.sin(latitude) ** 2
    meridian_m = 6_378_137.0 * (1.0 - 6.69437999014e-3) / squash**1.5 + depot.altitude_m
    normal_m = 6_378_137.0 / np.sqrt(squash) + depot.altitude_m
    return (
        depot.latitude_deg + np.rad2deg(north_m / meridian_m),
        depot.longitude_deg + np.rad2deg(east_m / (normal_m * np.cos(latitude))),
    )
