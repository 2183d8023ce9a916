"""What a benchmark measured, the bar it has to meet, and the table that shows both."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HEADINGS = ("figure", "median", "best", "worst", "rounds", "bar", "")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One value per round; the median has to meet the bar, with `every` the worst round too.

    Lower is better, unless `higher_is_better`. Without a `bar` it is told for information.
    """

    what: str
    unit: str
    rounds: Sequence[float]
    bar: float | None = None
    higher_is_better: bool = False
    every: bool = False

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def best(self) -> float:
        return max(self.rounds) if self.higher_is_better else min(self.rounds)

    @property
    def worst(self) -> float:
        return min(self.rounds) if self.higher_is_better else max(self.rounds)

    @property
    def missed(self) -> bool:
        if self.bar is None:
            return False
        judged = self.worst if self.every else self.median
        return judged < self.bar if self.higher_is_better else judged > self.bar

    def row(self) -> tuple[str, ...]:
        sign = ">=" if self.higher_is_better else "<="
        bar = "" if self.bar is None else f"{sign} {_number(self.bar)}"
        verdict = "" if self.bar is None else "MISSED" if self.missed else "met"
        values = (_number(value) for value in (self.median, self.best, self.worst))
        return (f"{self.what} [{self.unit}]", *values, str(len(self.rounds)), bar, verdict)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` percent of `values` don't exceed."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("nothing was measured")
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def table(figures: Sequence[Figure]) -> str:
    rows = [HEADINGS, *(figure.row() for figure in figures)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADINGS))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join((f"  {first}", *others)).rstrip()


def _number(value: float) -> str:
    if value == int(value) and abs(value) >= 1:
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
