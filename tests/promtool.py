"""Prometheus' own judgement of rules and of pages: `promtool`, skipped where it isn't installed, unless in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from pathlib import Path

PROMTOOL = shutil.which("promtool")


def complaints(tests: Path) -> str:
    """Run a file of rule tests; return what promtool has against them, which is nothing if they pass."""
    return _asked("test", "rules", str(tests))


def complaints_about_rules(rules: Path) -> str:
    """Return what promtool has against a file of rules, which is nothing if they are well-formed."""
    return _asked("check", "rules", "--lint-fatal", str(rules))


def complaints_about_configuration(configuration: Path) -> str:
    """Return what promtool has against a configuration of Prometheus, which is nothing if it is valid."""
    return _asked("check", "config", "--lint-fatal", str(configuration))


def complaints_about_page(page: str) -> str:
    """Return what promtool has against the names, types and help of a page in Prometheus' text format."""
    return _asked("check", "metrics", page=page)


def _asked(*arguments: str, page: str | None = None) -> str:
    if PROMTOOL is None and not os.environ.get("CI"):
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    assert PROMTOOL is not None, "promtool must be there in CI"
    done = subprocess.run(
        [PROMTOOL, *arguments], input=page, capture_output=True, text=True, timeout=60, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def alerts_at(
    folder: Path,
    rules: Path,
    series: dict[str, list[str]],
    *,
    interval: str,
    expected: dict[str, list[str]],
) -> str:
    """Feed samples to rules, one at each `interval`; return what of the `expected` alerts isn't so.

    `expected` has, by a time since the first sample, the alerts that fire then, and no others may.
    """
    test: dict[str, Any] = {
        "interval": interval,
        "input_series": [{"series": name, "values": " ".join(values)} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": at,
                "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
            }
            for at, alerts in expected.items()
        ],
    }
    document = {"rule_files": [str(rules)], "evaluation_interval": interval, "tests": [test]}
    written = folder / "rules.yaml"
    written.write_text(yaml.safe_dump(document), encoding="utf-8")
    return complaints(written)
