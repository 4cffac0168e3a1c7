"""Fixed numbers of the thermal event: what is a limit, when an event ends, how far a label looks ahead."""

from __future__ import annotations

SAMPLE_PERIOD_S = 5
LABEL_HORIZON_S = 7_200

# A limit is crossed, and the van derates, when a true (not a measured) temperature reaches it.
HOT_CELL_LIMIT_C = 54.0
MOTOR_WINDING_LIMIT_C = 145.0
INVERTER_LIMIT_C = 80.0

# The derate ends this far below the limit, so noise at the limit is one event and not fifty.
CELL_HYSTERESIS_K = 2.0
DRIVE_HYSTERESIS_K = 8.0

# Crossings closer together than this are one event.
EVENT_MERGE_S = 1_800
EVENT_CAUSES = ("battery", "motor", "inverter")
