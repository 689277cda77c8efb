from __future__ import annotations

import re

import pytest
import yaml

from tests.helm.documents import CHART
from tests.prometheus.hurried import expression, hurried

ALERTS = CHART / "files" / "alerts.yaml"


@pytest.mark.parametrize(
    ("expr", "divided"),
    [
        ('increase(x_total{of="1h"}[5m]) > 2', 'increase(x_total{of="1h"}[5s]) > 2'),
        ("max_over_time((x == 1)[1d:5m]) >= time()", "max_over_time((x == 1)[1440s:5s]) >= time()"),
        ("time() - x_timestamp_seconds < 120", "time() - x_timestamp_seconds < 2"),
        ("clamp_max(x_seconds / 7, 30 * 86400)", "clamp_max(x_seconds / 7, 30 * 1440)"),
        ("abs(skew) >= 30 and up == 0", "abs(skew) >= 30 and up == 0"),
    ],
)
def test_what_passes_is_divided(expr: str, divided: str) -> None:
    """Ranges, subqueries and spans are; names, counts and the distance of two clocks are not."""
    assert expression(expr, 60) == divided


@pytest.mark.parametrize("expr", ["x > 45", "x offset 5m", "increase(x[90s]) > 0"])
def test_what_is_not_understood_is_refused(expr: str) -> None:
    """A rule is not judged in a world that is half as fast as the other half."""
    with pytest.raises(AssertionError):
        expression(expr, 60)


def test_nothing_else_of_a_rule_is_changed() -> None:
    """All of the chart's rules can be hurried, and differ in digits and units alone."""
    slow, fast = yaml.safe_load(ALERTS.read_text(encoding="utf-8")), hurried(ALERTS, 60)
    assert slow != fast
    assert _without_digits(slow) == _without_digits(fast)


def _without_digits(document: object) -> str:
    return re.sub(r"\d+[smhd]?\b", "#", yaml.safe_dump(document, width=10**6))
