"""Who won: contenders judged on the same resamples of the same units, the best against each other one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.evaluation.figure_row import Floats, Row, row


@dataclass(frozen=True, slots=True)
class Contest:
    """One figure of several contenders."""

    figure: str
    params: Mapping[str, Any]  # of the rows, beside `model`
    values: Mapping[str, Floats]  # by contender: (1 + n_resamples,), the figure itself first; NaN: not measured
    higher_is_better: bool
    unit: str = "1"

    @property
    def order(self) -> tuple[str, ...]:
        """Contenders that were measured, the best first."""
        known = [name for name, values in self.values.items() if not np.isnan(values[0])]
        sign = -1.0 if self.higher_is_better else 1.0
        return tuple(sorted(known, key=lambda name: sign * self.values[name][0]))

    def rows(self) -> list[Row]:
        """The figure of each contender, then how far the best is from each other one, paired by resample."""
        rows = [row(self.figure, {**self.params, "model": name}, v, self.unit) for name, v in self.values.items()]
        return rows + list(self.differences().values())

    def differences(self) -> dict[str, Row]:
        """By contender: the best minus it, in the figure's unit, on the same resamples."""
        best, *others = self.order or ("",)
        return {
            other: row(
                f"{self.figure}_difference",
                {**self.params, "model": best, "against": other},
                self.values[best] - self.values[other],
                self.unit,
            )
            for other in others
        }

    def told_apart(self) -> list[str]:
        """Contenders that the best is ahead of beyond chance: the interval of the difference leaves out zero.

        The best is picked by the figures that judge it, which favours it; with many contenders believe clear gaps only.
        """
        end = "lo" if self.higher_is_better else "hi"
        sign = 1.0 if self.higher_is_better else -1.0
        return [name for name, d in self.differences().items() if d[end] is not None and sign * d[end] > 0]

    def verdict(self, where: str = "", digits: int = 3) -> str:
        """One line for people: who is first, whom the data puts behind it, and whom it cannot tell from it."""
        what = f"{self.figure}{f', {where}' if where else ''}"
        if not self.order:
            return f"{what}: nothing was measured."
        best, *others = self.order
        behind = self.told_apart()
        alike = [name for name in others if name not in behind]
        figure = row(self.figure, {}, self.values[best], self.unit)
        interval = "" if figure["lo"] is None else f" ({figure['lo']:.{digits}f} to {figure['hi']:.{digits}f})"
        parts = [f"{what}: {best} is first with {figure['value']:.{digits}f}{interval}"]
        if behind:
            parts.append(f"ahead of {', '.join(behind)} beyond chance")
        if alike:
            parts.append(f"not told apart from {', '.join(alike)}")
        return "; ".join(parts) + "."
