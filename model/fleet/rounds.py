"""The driver and the road: where the van is on its round, how fast it wants to go, when it stops and charges.

It does not know how the van reaches that speed; `plant` tells it how far it really came.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from model.fleet.vehicle import VanParameters
from model.jit import compiled

PARKED, DRIVING, DELIVERING, WAITING, AC_CHARGING, FAST_CHARGING = range(6)
OUTBOUND, ROUND, HOMEWARD = range(3)

ARRIVED_M = 12.0
LIGHT_SPACING_M = 650.0  # between places where a city van may have to wait
RED_SHARE = 0.45
LOW_CHARGE = 0.20

ROUND_STATE = np.dtype(
    [
        ("mode", "i8"),
        ("phase", "i8"),
        ("set_out", "i8"),  # 1 once the day's round is under way or over
        ("x_m", "f8"),  # along the street grid, from the depot
        ("y_m", "f8"),
        ("to_x_m", "f8"),
        ("to_y_m", "f8"),
        ("speed_mps", "f8"),
        ("limit_mps", "f8"),
        ("city", "i8"),
        ("timer_s", "f8"),
        ("stops_left", "i8"),
        ("payload_kg", "f8"),
        ("trailer_kg", "f8"),
        ("light_m", "f8"),
        ("red", "i8"),
        ("traffic", "f8"),  # log of the factor on free speed
        ("fast_charge_due", "i8"),
        ("fast_target", "f8"),
    ]
)


@compiled
def head_for(s: Any, x_m: float, y_m: float, limit_mps: float, city: bool) -> None:
    """Set out for a place on the street grid."""
    s.to_x_m, s.to_y_m = x_m, y_m
    s.limit_mps = limit_mps
    s.city = 1 if city else 0
    s.mode = DRIVING


@compiled
def remaining_m(s: Any) -> float:
    """Distance to go on this leg: around the blocks in the city, straight on the highway."""
    dx, dy = s.to_x_m - s.x_m, s.to_y_m - s.y_m
    if s.city == 1:
        return float(abs(dx) + abs(dy))
    return math.hypot(dx, dy)


@compiled
def advance(s: Any, way_m: float) -> None:
    """Move `way_m` along the leg and past the traffic lights on it."""
    dx, dy = s.to_x_m - s.x_m, s.to_y_m - s.y_m
    if s.city == 1:
        along_x = min(way_m, abs(dx))
        s.x_m += math.copysign(along_x, dx)
        s.y_m += math.copysign(min(way_m - along_x, abs(dy)), dy)
        s.light_m -= way_m
    else:
        left = math.hypot(dx, dy)
        if left > 1e-6:
            s.x_m += dx / left * min(way_m, left)
            s.y_m += dy / left * min(way_m, left)


@compiled
def next_stop(s: Any, day: Any, t_s: float, soc: float, rng: Any) -> None:
    """Choose the next delivery around here, or turn home when done, late or low."""
    if s.stops_left <= 0 or t_s > day.home_s or soc < 0.12:
        s.phase = HOMEWARD
        head_for(s, 0.0, 0.0, day.highway_mps, False)
        return
    s.stops_left -= 1
    s.payload_kg *= s.stops_left / (s.stops_left + 1.0)
    way_m = 60.0 + rng.exponential(day.spacing_m)
    from_centre_x, from_centre_y = s.x_m - day.area_x_m, s.y_m - day.area_y_m
    bearing = rng.uniform(-math.pi, math.pi)
    if math.hypot(from_centre_x, from_centre_y) > day.area_radius_m:
        bearing = math.atan2(-from_centre_y, -from_centre_x) + 0.3 * bearing
    city = way_m < 6_000.0
    limit = day.city_mps * rng.uniform(0.75, 1.2) if city else day.highway_mps * rng.uniform(0.8, 1.0)
    head_for(s, s.x_m + way_m * math.cos(bearing), s.y_m + way_m * math.sin(bearing), limit, city)


@compiled
def arrive(s: Any, day: Any, soc: float, rng: Any) -> None:
    """At the end of a leg: deliver, fast charge or park."""
    s.speed_mps = 0.0
    if s.phase == HOMEWARD:
        s.mode = PARKED
        s.payload_kg = s.trailer_kg = 0.0
        s.timer_s = rng.uniform(120.0, 3_600.0)
        return
    s.phase = ROUND
    due = s.fast_charge_due == 1 and s.stops_left <= day.fast_charge_at and soc < 0.78
    if due or soc < LOW_CHARGE:
        s.fast_charge_due = 0
        s.mode = FAST_CHARGING
        s.fast_target = min(0.95, max(soc + 0.15, rng.uniform(0.7, 0.95)))
        s.timer_s = rng.uniform(25.0, 60.0) * 60.0
    else:
        s.mode = DELIVERING
        s.timer_s = 35.0 + rng.exponential(110.0 if day.spacing_m < 1_000.0 else 420.0)


@compiled
def decide_at_depot(s: Any, day: Any, t_s: float, soc: float, dt_s: float) -> None:
    """Leave on the day's round, plug in, or stay."""
    if day.works == 1 and s.set_out == 0 and day.depart_s <= t_s < day.depart_s + 10_800.0 and soc > 0.5:
        s.set_out = 1
        s.phase = OUTBOUND
        s.stops_left = day.stops
        s.payload_kg, s.trailer_kg = day.payload_kg, day.trailer_kg
        s.fast_charge_due = 1 if day.fast_charge_at >= 0 else 0
        head_for(s, day.area_x_m, day.area_y_m, day.highway_mps, False)
    elif s.mode == PARKED:
        s.timer_s -= dt_s
        if s.timer_s <= 0.0 and soc < day.charge_to - 0.04:
            s.mode = AC_CHARGING
    elif soc >= day.charge_to:
        s.mode = PARKED
        s.timer_s = 0.0


@compiled
def decide(s: Any, day: Any, t_s: float, soc: float, rng: Any, dt_s: float) -> None:
    """Change what the van does, if it is time."""
    if s.mode in (PARKED, AC_CHARGING):
        decide_at_depot(s, day, t_s, soc, dt_s)
    elif s.mode == DRIVING:
        if remaining_m(s) < ARRIVED_M and s.speed_mps < 3.5:
            arrive(s, day, soc, rng)
        elif s.city == 1 and s.red == 1 and s.light_m < ARRIVED_M and s.speed_mps < 3.5:
            s.mode = WAITING
            s.speed_mps = 0.0
            s.timer_s = rng.uniform(5.0, 50.0)
        elif soc < 0.04:
            s.mode = FAST_CHARGING  # the recovery service comes with a charger
            s.fast_target, s.timer_s = 0.4, 5_400.0
            s.speed_mps = 0.0
    else:
        s.timer_s -= dt_s
        if s.mode == FAST_CHARGING and soc >= s.fast_target:
            s.timer_s = 0.0
        if s.timer_s <= 0.0:
            if s.mode == WAITING:
                s.mode = DRIVING
                new_light(s, rng)
            elif remaining_m(s) > 2.0 * ARRIVED_M:  # recovered on the way
                s.mode = DRIVING
            else:
                next_stop(s, day, t_s, soc, rng)


@compiled
def new_light(s: Any, rng: Any) -> None:
    """The next place where traffic may stop the van."""
    s.light_m = 30.0 + rng.exponential(LIGHT_SPACING_M)
    s.red = 1 if rng.random() < RED_SHARE else 0


@compiled
def wanted_speed(s: Any, p: VanParameters, hour: float, rng: Any, dt_s: float) -> float:
    """The speed the driver wants at the end of this step: limit, traffic, comfort, and stopping in time."""
    s.traffic += -s.traffic * dt_s / 500.0 + 0.30 * math.sqrt(2.0 * dt_s / 500.0) * rng.standard_normal()
    if s.mode != DRIVING:
        return 0.0
    if s.city == 1 and s.red == 0 and s.light_m < 0.0:
        new_light(s, rng)
    rush = 0.25 * math.exp(-((hour - 8.2) ** 2) / 1.2) + 0.28 * math.exp(-((hour - 17.2) ** 2) / 2.0)
    flow = min(1.1, math.exp(s.traffic) * (1.0 - rush))
    free_mps = s.limit_mps * p.haste * max(0.15, flow)
    ahead_m = remaining_m(s) - 2.0
    if s.city == 1 and s.red == 1:
        ahead_m = min(ahead_m, s.light_m - 2.0)
    b = p.braking_mps2
    half = 0.5 * b * dt_s
    square = half * half - 2.0 * b * (0.5 * dt_s * s.speed_mps - max(ahead_m, 0.0))
    stoppable_mps = math.sqrt(square) - half if square > 0.0 else 0.0
    eager_mps = s.speed_mps + p.acceleration_mps2 * dt_s * (1.0 if s.speed_mps < 12.0 else 0.5)
    wanted = min(free_mps, eager_mps, max(0.0, stoppable_mps))
    return float(max(wanted, s.speed_mps - 4.0 * dt_s, 0.0))
