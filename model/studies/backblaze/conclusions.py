"""What follows from a run and what does not, in words that its figures choose."""

from collections import Counter

import numpy as np

from model.evaluation.figure_row import Floats, row
from model.studies.backblaze import published
from model.studies.backblaze.classification import BOOSTING
from model.studies.backblaze.config import ATTRIBUTES
from model.studies.backblaze.drives import NO_FAILURE
from model.studies.backblaze.failure_time import CONSTANT
from model.studies.backblaze.findings import Findings
from model.studies.backblaze.networks import NETWORKS
from model.studies.backblaze.splits import cut_day

FLEET_AFR = 0.014  # failures per drive and year of a fleet as an example, not a figure of the data


def claims_of(found: Findings) -> list[published.Claim]:
    """What the publication says, beside ours."""
    return published.claims(
        found.learners("auroc").values,
        found.learners("f2").values,
        found.losses("f2").values,
        {name: figures["mae"] for name, figures in found.days.items()},
    )


def conclusions(found: Findings) -> str:
    """Paragraphs."""
    return "\n\n".join((_order(found), _mixture(found), _attributes(found), _days(found), _time(found)))


def _order(found: Findings) -> str:
    verdicts = Counter(claim.verdict for claim in claims_of(found))
    learners = found.learners("auroc").values
    gap = row("", {}, learners[BOOSTING] - learners["mamba"])
    wanted, half = published.AUROC[BOOSTING] - published.AUROC["mamba"], (gap["hi"] - gap["lo"]) / 2
    failing = len(np.unique(found.drives.drive[_test_days(found) & found.drives.label(found.config.horizon_days)]))
    return (
        f"**The order of learners.** Of {verdicts.total()} published orders {verdicts['borne out']} are borne out here, "
        f"{verdicts['contradicted']} contradicted, {verdicts['cannot be told']} cannot be told. {failing} drives fail in the "
        "test days, and drives are independent, days are not: the difference of AUROC between boosting and Mamba has an "
        f"interval of +-{half:.3f}, the published difference is {wanted:.3f}. To see one so small, some "
        f"{max((half / wanted) ** 2, 1.0):,.0f} times as many failing drives would be needed."
    )


def _mixture(found: Findings) -> str:
    after = _test_days(found)
    share = float(found.drives.label(found.config.horizon_days)[after].mean())
    fleet = FLEET_AFR / 365.0 * found.config.horizon_days
    return (
        f"**Precision, F1 and F2 hold for this mixture only.** {share:.2%} of the test days are positive, because every "
        "failing drive is used and only some of the others. In a fleet of which, for example, "
        f"{FLEET_AFR:.1%} fail in a year {fleet:.3%} would be, {share / fleet:,.0f} times fewer, and precision would fall nearly "
        "as much. AUROC and the recall at a given threshold do not depend on it. The published F2 cannot be set against ours."
    )


def _attributes(found: Findings) -> str:
    missing = [a for a in ATTRIBUTES[:5] if a not in found.drives.attributes]
    if not missing:
        return "**Attributes.** All five of the published ones are in these files."
    return (
        f"**Attributes.** SMART {', '.join(map(str, missing))} of the published five are in none of these files. What they add "
        "cannot be known from here."
    )


def _days(found: Findings) -> str:
    drives, days = found.drives, found.days
    constant = days[CONSTANT]["mae"]
    better = [name for name in NETWORKS if _above_zero(constant - days[name]["mae"])]
    against = f"{', '.join(better)} beyond chance" if better else "none of the networks beyond chance"
    return (
        f"**Days to failure.** With at most {drives.n_days - cut_day(drives, found.config) - 1} days left, one and the same "
        f"number for every drive is within {constant[0]:.2f} days on average; ahead of that: {against}. A mean absolute error "
        "below the published one is no better result, it is a shorter span; R2, which measures against the spread of the days, "
        "is the one to read."
    )


def _time(found: Findings) -> str:
    drives = found.drives
    late = drives.failure_day[
        (drives.failure_day != NO_FAILURE) & (drives.failure_day >= cut_day(drives, found.config))
    ]
    per_day = np.bincount(late)
    return (
        f"**Time and chance.** One cut, one test period, one seed of the networks ({found.config.seed}). Failures come in "
        f"clusters: {per_day.max()} of {len(late)} on one day. Another period may rank the learners differently, and so may "
        f"another seed; the intervals hold neither. Every network had {found.config.steps} steps with every loss, so one that "
        "learns slowly may look worse than it is."
    )


def _test_days(found: Findings) -> np.ndarray:
    drives, config = found.drives, found.config
    return drives.counted(config.horizon_days, cut_day(drives, config), drives.n_days)


def _above_zero(difference: Floats) -> bool:
    low = row("", {}, difference)["lo"]
    return low is not None and low > 0
