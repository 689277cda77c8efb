"""A figure is several measurements of one thing, beside several of its baseline from the same run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One row of a table."""

    name: str
    unit: str
    values: tuple[float, ...]
    """At least one; in `unit`."""
    baseline: tuple[float, ...] = ()
    """Of what `against` says; empty: there is nothing to compare it with."""
    against: str = ""
    target: str = ""
    """In words; empty: none was set."""

    @property
    def ratio(self) -> float:
        """Median over median; NaN without a baseline."""
        below = statistics.median(self.baseline) if self.baseline else 0.0
        return statistics.median(self.values) / below if below else math.nan


class Picture(msgspec.Struct, frozen=True):
    """How a cost grows."""

    name: str
    """Of its file."""
    title: str
    unit: str
    lines: dict[str, tuple[tuple[float, float], ...]]
    """By what they are of: (number, cost)."""
    across: str = "tokens"
    """What is counted by the first of the two, on a logarithmic axis."""


class Section(msgspec.Struct, frozen=True):
    """Figures that were measured in one way."""

    title: str
    method: str
    """How, in a paragraph or two of Markdown."""
    figures: tuple[Figure, ...]
    pictures: tuple[Picture, ...] = ()


def quantile(values: Sequence[float], share: float) -> float:
    """Return what so great a share of the values doesn't exceed; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan


def spread(values: Sequence[float]) -> str:
    """Write min / median / max with three significant digits, or the one value that there is."""
    shown = [min(values), statistics.median(values), max(values)] if len(values) > 1 else list(values)
    return " / ".join(_short(value) for value in shown)


def _short(value: float) -> str:
    if math.isnan(value):
        return "unknown"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(figures: Sequence[Figure]) -> str:
    """Write a Markdown table."""
    rows = [
        "| Figure | Unit | Measured | Baseline | Ratio | Target |",
        "|---|---|---|---|---|---|",
    ]
    for one in figures:
        baseline = f"{spread(one.baseline)} ({one.against})" if one.baseline else one.against
        ratio = "" if math.isnan(one.ratio) else f"{one.ratio:.2f}"
        rows.append(
            f"| {one.name} | {one.unit} | {spread(one.values)} | {baseline} | {ratio} | {one.target} |"
        )
    return "\n".join(rows)
