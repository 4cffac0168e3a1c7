"""The evaluation as a whole: operating points on one fleet, figures on another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model.evaluation.alerts import AlertRule
from model.evaluation.bootstrap import RESAMPLES, SEED
from model.evaluation.calibration import choose_calibration
from model.evaluation.conditions import CONDITIONS, MAIN_CONDITIONS, NINE, Condition
from model.evaluation.parts import Parts, fingerprint_of
from model.evaluation.scored import ScoredVan
from model.evaluation.scorer import Scorer
from model.evaluation.streaming import GROUP, Advance, score_fleet, scorings
from model.evaluation.summary import Summary, VanSummary, joined, summarise
from model.fleet import FleetConfig
from model.scoring import Calibration

Announce = Callable[[str, int], None]  # a stage begins, with so many vans to score


@dataclass(frozen=True, slots=True)
class Plan:
    """What is evaluated on what."""

    split: str  # the name that the rows carry: test or quick
    fleet: FleetConfig
    validation: FleetConfig | None  # where operating points are chosen; None if they are all given
    conditions: tuple[Condition, ...] = CONDITIONS
    rule: AlertRule = field(default_factory=AlertRule)
    resamples: int = RESAMPLES
    resample_seed: int = SEED
    main_only: frozenset[str] = frozenset()  # models that are judged with nine and six channels and no otherwise

    def conditions_of(self, model: str) -> tuple[Condition, ...]:
        """Under which conditions this model is judged."""
        return tuple(c for c in self.conditions if c in MAIN_CONDITIONS or model not in self.main_only)


@dataclass(frozen=True, slots=True)
class Judged:
    """One model on one fleet under one condition."""

    model: str
    split: str
    seed: int  # of the fleet
    condition: str
    channels: int
    summary: Summary


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that the report is made from."""

    plan: Plan
    calibrations: Mapping[str, Calibration]  # by model
    fingerprints: Mapping[str, str]  # by model
    judged: tuple[Judged, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """In the order asked for."""
        return tuple(self.calibrations)

    def find(self, model: str, channels: int, condition: str = NINE.name, split: str | None = None) -> Judged | None:
        """One part; the plan's own split by default. None if it was not asked for."""
        for part in self.judged:
            wanted = (model, channels, condition, split or self.plan.split)
            if (part.model, part.channels, part.condition, part.split) == wanted:
                return part
        return None


def _silent(_: str, __: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Workbench:
    """How the work is done; none of it changes a figure."""

    workers: int = 0  # processes that simulate; 0: none but this one
    group: int = GROUP  # vans scored side by side
    parts: Path | None = None  # folder of finished parts, which are taken from there and put there
    announce: Announce = _silent  # hears of each stage and how many vans it has to score
    advance: Advance = _silent  # hears of every group of vans that is done


def evaluate(
    scorers: Sequence[Scorer],
    plan: Plan,
    given: Mapping[str, Calibration] | None = None,
    bench: Workbench | None = None,
) -> Evaluation:
    """Choose operating points where none is given, then judge every scorer under every condition of the plan.

    Args:
        scorers: models, of different names.
        plan: fleets and conditions.
        given: operating points by model, for those that have one already.
        bench: how to work.

    Raises:
        ValueError: a model has no operating point and there is no validation fleet; a model's scores are unusable.
    """
    bench = bench or Workbench()
    parts = Parts(bench.parts, plan.rule)
    calibrations = dict(given or {})
    judged: list[Judged] = []
    without = [scorer for scorer in scorers if scorer.name not in calibrations]
    if without:
        if plan.validation is None:
            raise ValueError(f"no operating point for {', '.join(s.name for s in without)} and no validation fleet")
        for scorer, calibration, summary in _calibrate(without, plan.validation, plan.rule, parts, bench):
            calibrations[scorer.name] = calibration
            judged.append(Judged(scorer.name, "validation", plan.validation.seed, NINE.name, NINE.channels, summary))
    judged += _judge(scorers, plan, calibrations, parts, bench)
    return Evaluation(
        plan=plan,
        calibrations={scorer.name: calibrations[scorer.name] for scorer in scorers},
        fingerprints={scorer.name: fingerprint_of(scorer) for scorer in scorers},
        judged=tuple(judged),
    )


def _calibrate(
    scorers: Sequence[Scorer], fleet: FleetConfig, rule: AlertRule, parts: Parts, bench: Workbench
) -> list[tuple[Scorer, Calibration, Summary]]:
    """Operating points of these scorers on the validation fleet with all its channels, and how they do there."""
    found: dict[str, tuple[Calibration, Summary]] = {}
    for scorer in scorers:
        kept = parts.calibration(scorer, fleet)
        there = parts.summary(scorer, fleet, NINE, kept) if kept is not None else None
        if kept is not None and there is not None:
            found[scorer.name] = kept, there
    due = [(scorer, (NINE,)) for scorer in scorers if scorer.name not in found]
    scores: dict[str, list[ScoredVan]] = {scorer.name: [] for scorer, _ in due}
    if due:
        bench.announce("validation", scorings(due) * fleet.n_vehicles)
        score_fleet(
            fleet,
            due,
            lambda _, scorer, van: scores[scorer.name].append(van),
            bench.advance,
            workers=bench.workers,
            group=bench.group,
        )
    for scorer, _ in due:
        vans = scores.pop(scorer.name)
        try:
            calibration = choose_calibration(vans, rule)
        except ValueError as error:
            raise ValueError(f"{scorer.name} on {fleet.n_vehicles} vans of seed {fleet.seed}: {error}") from error
        summary = joined([summarise(van, calibration, rule) for van in vans])
        parts.keep_calibration(scorer, fleet, calibration)
        parts.keep_summary(scorer, fleet, NINE, calibration, summary)
        found[scorer.name] = calibration, summary
    return [(scorer, *found[scorer.name]) for scorer in scorers]


def _judge(
    scorers: Sequence[Scorer], plan: Plan, calibrations: Mapping[str, Calibration], parts: Parts, bench: Workbench
) -> list[Judged]:
    """Every scorer on the plan's fleet under each of its conditions."""
    found: dict[tuple[str, Condition], Summary] = {}
    for scorer in scorers:
        for condition in plan.conditions_of(scorer.name):
            summary = parts.summary(scorer, plan.fleet, condition, calibrations[scorer.name])
            if summary is not None:
                found[scorer.name, condition] = summary
    due = [
        (scorer, missing)
        for scorer in scorers
        if (missing := [c for c in plan.conditions_of(scorer.name) if (scorer.name, c) not in found])
    ]
    vans: dict[tuple[str, Condition], list[VanSummary]] = {(s.name, c): [] for s, cs in due for c in cs}

    def visit(condition: Condition, scorer: Scorer, van: ScoredVan) -> None:
        vans[scorer.name, condition].append(summarise(van, calibrations[scorer.name], plan.rule))

    if due:
        bench.announce(plan.split, scorings(due) * plan.fleet.n_vehicles)
        score_fleet(plan.fleet, due, visit, bench.advance, workers=bench.workers, group=bench.group)
    for scorer, conditions in due:
        for condition in conditions:
            summary = joined(vans.pop((scorer.name, condition)))
            parts.keep_summary(scorer, plan.fleet, condition, calibrations[scorer.name], summary)
            found[scorer.name, condition] = summary
    return [
        Judged(s.name, plan.split, plan.fleet.seed, c.name, c.channels, found[s.name, c])
        for s in scorers
        for c in plan.conditions_of(s.name)
    ]
