"""The report's words and tables."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta

import numpy as np

from model.evaluation.figure_row import Row, row
from model.evaluation.tables import shown, table
from model.studies.backblaze import published
from model.studies.backblaze.classification import BOOSTING
from model.studies.backblaze.conclusions import claims_of, conclusions
from model.studies.backblaze.config import ATTRIBUTES
from model.studies.backblaze.drives import NO_FAILURE
from model.studies.backblaze.findings import Figures, Findings
from model.studies.backblaze.networks import NETWORKS
from model.studies.backblaze.splits import cut_day
from model.studies.intervals import interval_plot
from model.studies.report import Judgement, Plot, Section, StudyReport

RISK = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "f2": "F2",
}
DAYS = {"mae": "MAE", "rmse": "RMSE", "r2": "R2", "within_5_days": "within 5 days", "within_10_days": "within 10 days"}


def report_of(found: Findings) -> StudyReport:
    """Everything that is said about a run."""
    config = found.config
    judgements = [
        Judgement(found.learners("auroc"), "fails within a week, drive-days after the cut"),
        Judgement(found.learners("f2"), "fails within a week, threshold from validation"),
        Judgement(found.losses("f2"), "losses, mean over the networks"),
        *(Judgement(one, f"{one.params['learner']}, by training days") for one in found.trained_on("auroc")),
        *(
            Judgement(one, f"{one.params['learner']} on {one.params['drive_model']}")
            for one in found.one_model("auroc")
        ),
        Judgement(found.days_left("mae"), "days to failure of drives that failed", 2),
    ]
    return StudyReport(
        study="backblaze",
        title="Hard-drive failure: a published comparison, repeated",
        summary=_summary(found),
        data=_data(found),
        splits=_splits(found),
        seeds={"everything": config.seed},
        resampled="drives",
        resamples=config.resamples,
        settings=asdict(config),
        judgements=judgements,
        rows=_rows(found),
        sections=[
            _risk(found),
            _losses(found),
            _ablations(found),
            _days(found),
            _beside(found),
            Section("What can be concluded and what cannot", conclusions(found)),
        ],
    )


def _summary(found: Findings) -> str:
    best, chosen = found.learners("auroc").order[0], found.chosen
    days = found.days_left("mae").order[0]
    return (
        "Which drives fail within a week, and in how many days do failing drives fail? Asked of Backblaze's daily SMART "
        "readings with the product's Mamba blocks behind a Conv1D, an LSTM, a transformer, and gradient boosting "
        "(LightGBM in the place of the published XGBoost, which on Linux brings NVIDIA's NCCL along). Over "
        f"drive-days, {best} ranks best (AUROC {_cell(found.classified[chosen[best]], 'auroc')}). Days to failure: "
        f"{days} is nearest (MAE {_cell(found.days[days], 'mae', 2)} days). What follows from that, and what does not, is at "
        "the end."
    )


def _data(found: Findings) -> dict[str, str | float]:
    drives = found.drives
    last = drives.first_date + timedelta(days=drives.n_days - 1)
    missing = [a for a in ATTRIBUTES if a not in drives.attributes]
    failed = drives.failure_day != NO_FAILURE
    return {
        "source": "Backblaze Drive Stats, daily CSV",
        "files": drives.seen.files,
        "rows": drives.seen.rows,
        "drives": drives.seen.drives,
        "failures": drives.seen.failures,
        "span": f"{drives.first_date} to {last}, {drives.n_days} days",
        "drives used": f"{int(failed.sum())} that fail and {int((~failed).sum())} drawn from those that do not",
        "drive models": len(np.unique(drives.models)),
        "failures per drive and year, among those used": float(failed.sum() / len(drives.day) * 365.0),
        "SMART attributes, raw": ", ".join(map(str, drives.attributes)),
        "asked for and in no file": ", ".join(map(str, missing)) or "none",
        "rows after a drive's failure, left out": drives.seen.after_failure,
    }


def _splits(found: Findings) -> dict[str, Mapping[str, str | float]]:
    drives, config = found.drives, found.config
    cut, folds = cut_day(drives, config), config.folds
    label = drives.label(config.horizon_days)
    out: dict[str, Mapping[str, str | float]] = {}
    for name, start, end in (
        (f"before the cut: {folds - 2} of {folds} folds train, one validates", 0, cut),
        ("after the cut: the fold left over is tested, each in turn", cut, drives.n_days),
    ):
        counted = drives.counted(config.horizon_days, start, end)
        positive = counted & label
        dates = [
            drives.first_date + timedelta(days=int(d)) for d in (drives.day[counted].min(), drives.day[counted].max())
        ]
        out[name] = {
            "days that count": f"{dates[0]} to {dates[1]}",
            "drives": float(len(np.unique(drives.drive[counted]))),
            "drive-days": float(counted.sum()),
            "failing drives": float(len(np.unique(drives.drive[positive]))),
            "positive drive-days": float(positive.sum()),
        }
    return out


def _rows(found: Findings) -> list[Row]:
    """Figures that no contest holds."""
    rows = []
    for contender, figures in found.classified.items():
        params = {"task": "fails within a week", "model": contender.model, "loss": contender.loss}
        rows += [row(name, params, figures[name]) for name in RISK]
    for name, figures in found.days.items():
        params = {"task": "days to failure", "model": name}
        rows += [
            row(figure, params, figures[figure], "d" if figure in {"mae", "rmse"} else "1")
            for figure in DAYS
            if figure != "mae"
        ]
    return rows


def _cell(figures: Figures, name: str, digits: int = 3) -> str:
    return shown(row(name, {}, figures[name]), digits)


def _risk(found: Findings) -> Section:
    chosen = set(found.chosen.values())
    body = [
        [
            f"**{contender.label}**" if contender in chosen else contender.label,
            f"{found.validation[contender]:.3f}",
            *(_cell(figures, name) for name in RISK),
        ]
        for contender, figures in found.classified.items()
    ]
    text = (
        f"A drive-day is positive when the drive fails on it or on one of the next {found.config.horizon_days - 1} days. "
        "Thresholds are those with the best F2 on the validation drives. In bold: each learner's loss with the best "
        "validation AUROC, which is the one that competes.\n\n" + table(("", "validation AUROC", *RISK.values()), body)
    )
    plot = Plot("auroc", "AUROC by contender", interval_plot(found.contenders("auroc"), "AUROC over drive-days"))
    return Section("Fails within a week", text, [plot])


def _losses(found: Findings) -> Section:
    f2, auroc = found.losses("f2"), found.losses("auroc")
    body = [[loss, _cell(auroc.values, loss), _cell(f2.values, loss)] for loss in f2.values]
    text = (
        "Mean over the networks. Focal: alpha 0.25, gamma 2. Weighted focal: gamma 2, and alpha such that positive and "
        "negative training days weigh the same in all. Scores are calibrated on validation drives afterwards, so a loss can "
        "help only by ranking better.\n\n" + table(("loss", "AUROC", "F2"), body)
    )
    return Section("Losses", text)


def _ablations(found: Findings) -> Section:
    body = [
        [one.params["learner"], what, _cell(one.values, what)]
        for one in (*found.trained_on("auroc"), *found.one_model("auroc"))
        for what in one.values
    ]
    single = found.single
    words = (
        "One drive model alone could not be asked: there is only one, or too few of its drives fail."
        if single is None
        else f"*alone* and *all models*: trained on {single.drive_model} alone ({single.drives} drives, {single.failures} "
        "failures) or on all drive models, both judged on the drives of that model."
    )
    text = (
        f"*k-means*: {found.config.negatives:g} negative training days for each positive, by share of each of "
        f"{found.config.clusters} clusters; *all days*: every one. {words}\n\n"
        + table(("learner", "trained on", "AUROC"), body)
    )
    return Section("Training days and drive models", text)


def _days(found: Findings) -> Section:
    body = [[name, *(_cell(figures, figure, 2) for figure in DAYS)] for name, figures in found.days.items()]
    left = found.drives.n_days - cut_day(found.drives, found.config) - 1
    text = (
        "Trained on drives that failed before the cut, by absolute error; judged on other drives that failed after it, on "
        f"their days after it, so that at most {left} days are left. *constant* says the median of the training days, "
        "whatever the drive.\n\n" + table(("", *DAYS.values()), body)
    )
    plot = Plot(
        "days-to-failure", "mean absolute error of the days to failure",
        interval_plot(found.days_left("mae"), "mean absolute error, days", published.MAE),
    )  # fmt: skip
    return Section("Days to failure", text, [plot])


def _beside(found: Findings) -> Section:
    auroc, f2, chosen = found.learners("auroc").values, found.learners("f2").values, found.chosen
    body = [
        [
            name if name != BOOSTING else f"{BOOSTING} (published: XGBoost)",
            f"{published.AUROC[name]:.3f}", _cell(auroc, name), f"{published.F2[name]:.3f}", _cell(f2, name),
        ]
        for name in chosen
    ]  # fmt: skip
    days = [
        [
            name,
            f"{published.MAE[name]:.2f}",
            _cell(found.days[name], "mae", 2),
            f"{published.R2[name]:.3f}",
            _cell(found.days[name], "r2"),
        ]
        for name in NETWORKS
    ]
    claims = [
        [claim.text, f"{claim.published:+.3f}", shown(row("", {}, claim.ours), 3), claim.verdict]
        for claim in claims_of(found)
    ]
    loss = found.losses("f2").values
    text = (
        "The published comparison is of Q4 2023, other drives with more attributes, so only the order of learners can be "
        "compared, not the figures.\n\n"
        + table(("", "AUROC, published", "ours", "F2, published", "ours"), body)
        + f"\n\nF2 by loss: focal {published.F2_OF_LOSS['focal']} published, {_cell(loss, 'focal')} here; bce "
        f"{published.F2_OF_LOSS['bce']} published, {_cell(loss, 'bce')} here.\n\n"
        + table(("days to failure", "MAE, published", "ours", "R2, published", "ours"), days)
        + "\n\nEach order that the published figures give, as a difference that would be positive if ours agreed:\n\n"
        + table(("the publication says", "by", "here, paired by drive", "so it is"), claims)
    )
    return Section("Beside the published figures", text)
