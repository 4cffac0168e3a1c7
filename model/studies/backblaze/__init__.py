"""Hard-drive failure from Backblaze's daily drive statistics: a published comparison of networks and boosting, repeated."""

from model.studies.backblaze.config import FULL, BackblazeConfig
from model.studies.backblaze.study import run

__all__ = ["FULL", "BackblazeConfig", "run"]
