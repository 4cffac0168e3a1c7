"""What the study found, before it becomes a page."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.evaluation.figure_row import Floats
from model.studies.backblaze.classification import BOOSTING, Contender
from model.studies.backblaze.config import LOSSES, BackblazeConfig
from model.studies.backblaze.drives import Drives
from model.studies.backblaze.networks import NETWORKS
from model.studies.contest import Contest

Figures = Mapping[str, Floats]  # by name: (1 + resamples,), the figure itself first


@dataclass(frozen=True, slots=True)
class Single:
    """One drive model's drives, told by what was trained on them alone and by what was trained on all."""

    drive_model: str
    drives: int
    failures: int
    alone: Mapping[Contender, Figures]
    mixed: Mapping[Contender, Figures]


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the report is made from."""

    config: BackblazeConfig
    drives: Drives
    classified: Mapping[Contender, Figures]
    validation: Mapping[Contender, float]  # AUROC, mean over the folds
    all_days: Mapping[Contender, Figures]  # trained without undersampling
    single: Single | None
    days: Mapping[str, Figures]  # by contender, of the days to failure

    @property
    def chosen(self) -> dict[str, Contender]:
        """By learner, the loss with the best validation AUROC: which one competes is not chosen on test days."""
        best = {
            network: max((Contender(network, loss) for loss in LOSSES), key=self.validation.__getitem__)
            for network in NETWORKS
        }
        return {BOOSTING: Contender(BOOSTING), **best}

    def learners(self, figure: str) -> Contest:
        """The learners, each with its chosen loss."""
        values = {name: self.classified[contender][figure] for name, contender in self.chosen.items()}
        return Contest(figure, {"task": "fails within a week", "loss": "chosen"}, values, higher_is_better=True)

    def contenders(self, figure: str) -> Contest:
        """Every learner with every loss."""
        values = {contender.label: figures[figure] for contender, figures in self.classified.items()}
        return Contest(figure, {"task": "fails within a week"}, values, higher_is_better=True)

    def losses(self, figure: str) -> Contest:
        """The losses, the mean over the networks."""
        values = {
            loss: np.mean([self.classified[Contender(network, loss)][figure] for network in NETWORKS], axis=0)
            for loss in LOSSES
        }
        params = {"task": "fails within a week", "of": "mean over the networks"}
        return Contest(figure, params, values, higher_is_better=True)

    def trained_on(self, figure: str) -> list[Contest]:
        """For each probe: undersampled training days against all of them."""
        return [
            Contest(
                figure,
                {"task": "fails within a week", "learner": contender.label},
                {"k-means": self.classified[contender][figure], "all days": figures[figure]},
                higher_is_better=True,
            )
            for contender, figures in self.all_days.items()
        ]

    def one_model(self, figure: str) -> list[Contest]:
        """For each probe: trained on one drive model against trained on all, on the drives of that model."""
        if self.single is None:
            return []
        return [
            Contest(
                figure,
                {"task": "fails within a week", "learner": contender.label, "drive_model": self.single.drive_model},
                {"alone": self.single.alone[contender][figure], "all models": self.single.mixed[contender][figure]},
                higher_is_better=True,
            )
            for contender in self.single.alone
        ]

    def days_left(self, figure: str) -> Contest:
        """Days to failure."""
        values = {name: figures[figure] for name, figures in self.days.items()}
        higher = figure not in {"mae", "rmse"}
        return Contest(figure, {"task": "days to failure"}, values, higher, "1" if higher else "d")
