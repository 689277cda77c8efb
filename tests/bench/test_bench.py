"""The benchmark runs; what it measures decides no test."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.__main__ import ROOT, SECTIONS
from bench.figures import Figure, quantile, table


@pytest.mark.timeout(180)
@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_still_measures(section: str) -> None:
    """In a tiny size, each part of `make bench` comes to an end, and every row has a figure."""
    command = [sys.executable, "-m", "bench", "--tiny", "--only", section]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)

    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert len(rows) > 1
    assert all(row[3].strip() for row in rows)


def test_a_table_sets_figures_beside_their_baselines() -> None:
    """A row has least, median and greatest of both, and the ratio of the medians."""
    figure = Figure("x", "ms", (3.0, 1.0, 2.0), (4.0, 4.0), "bare", "≤ 1")

    assert table([figure]).splitlines()[-1] == "| x | ms | 1 / 2 / 3 | 4 / 4 / 4 (bare) | 0.50 | ≤ 1 |"


def test_a_quantile_is_one_of_the_values() -> None:
    """What 99 in 100 don't exceed is one that was measured."""
    assert quantile([float(value) for value in range(100)], 0.99) == 99.0
    assert quantile([5.0], 0.5) == 5.0
