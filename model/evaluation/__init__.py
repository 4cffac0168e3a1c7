"""How good the risk is: over instants, over events as an operator counts them, and against baselines.

The definitions are in docs/evaluation.md. Training takes `choose_calibration` and `figures_of_vans` from here;
`emberwatch evaluate` takes `evaluate` and the report.
"""

from model.evaluation.alerts import AlertRule
from model.evaluation.calibration import choose_calibration, fit_platt
from model.evaluation.card import figures_of_vans
from model.evaluation.conditions import with_channels
from model.evaluation.scored import ScoredVan, scored
from model.evaluation.scorer import Scorer
from model.evaluation.splits import split_fleet

__all__ = [
    "AlertRule",
    "ScoredVan",
    "Scorer",
    "choose_calibration",
    "figures_of_vans",
    "fit_platt",
    "scored",
    "split_fleet",
    "with_channels",
]
