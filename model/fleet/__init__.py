"""A fleet of electric vans that obeys physics: whole traces with hidden true temperatures and honest labels."""

from model.channels import SIGNALS
from model.fleet.config import TRUE_TEMPERATURES, FleetConfig, VehicleTrace
from model.fleet.faults import FAULT_KINDS
from model.fleet.simulation import simulate, simulate_vehicle
from model.fleet.wire_order import wire_order

__all__ = [
    "FAULT_KINDS",
    "SIGNALS",
    "TRUE_TEMPERATURES",
    "FleetConfig",
    "VehicleTrace",
    "simulate",
    "simulate_vehicle",
    "wire_order",
]
