"""The chart's alerts as Prometheus evaluates them: each comes, stays away, and goes."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests import promtool
from tests.helm import documents

UNIT_TESTS = Path(__file__).with_name("alerts.yaml")


def test_each_alert_comes_and_goes() -> None:
    """Prometheus finds each alert when it is due, not before, and not any more once the cause is gone."""
    assert promtool.complaints(UNIT_TESTS) == ""


def test_no_alert_is_without_a_test() -> None:
    """Each is expected to fire by one of promtool's tests, and expected not to by another."""
    rules = yaml.safe_load((documents.CHART / "files" / "alerts.yaml").read_text(encoding="utf-8"))
    asked = [
        (one["expr"], bool(one.get("exp_samples")))
        for test in yaml.safe_load(UNIT_TESTS.read_text(encoding="utf-8"))["tests"]
        for one in test["promql_expr_test"]
    ]

    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert {fires for expression, fires in asked if f'"{rule["alert"]}"' in expression} == {True, False}
