"""The rules as Prometheus evaluates them: each alert comes, stays away, and goes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.observers import metrics
from sidecar.observers.log import SKEW_WORTH_A_WARNING
from tests import promtool
from tests.helm import documents
from tests.helm.release import Helm, HelmError, one

ALERTS = documents.CHART / "files" / "alerts.yaml"
UNIT_TESTS = [Path(__file__).with_name(name) for name in ("alerts.yaml", "consents.yaml")]
SCRAPED = {"namespace", "pod", "job", "instance"}
"""What Prometheus adds to each series of a PodMonitor; of a host the last two."""


def alerts() -> dict[str, dict[str, Any]]:
    """Return every alert, by its name."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def unit_tests() -> list[dict[str, Any]]:
    """Return promtool's tests, of both files."""
    return [one for file in UNIT_TESTS for one in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]]


def expectations(alert: str, what: str) -> list[list[tuple[float, bool]]]:
    """Return, of each test that is called so, when it looks at the alert and whether that fires then."""
    return [
        sorted(
            (_seconds(one["eval_time"]), bool(one.get("exp_samples")))
            for one in test["promql_expr_test"]
            if f'alertname="{alert}"' in one["expr"]
        )
        for test in unit_tests()
        if test["name"].startswith(f"{alert} {what}: ")
    ]


def _seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([smhd])", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit]


def families() -> dict[str, dict[str, list[str]]]:
    """Return the labels of each metric that the daemon has, and the words that each may have, if it has words."""
    rows = re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) \| ", metrics.reference(), re.MULTILINE)
    return {
        name: {label: words.split(", ") if words else [] for label, words in _labels(labels)}
        for name, labels in rows
    }


def _labels(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`(\w+)`(?: \(([^)]*)\))?", text)


def test_prometheus_accepts_the_rules() -> None:
    """`promtool check rules` finds nothing to complain of."""
    assert promtool.complaints_about_rules(ALERTS) == ""


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name)
def test_each_alert_comes_and_goes(file: Path) -> None:
    """Prometheus finds each alert when it is due, not before, and not any more once the cause is gone."""
    assert promtool.complaints(file) == ""


@pytest.mark.parametrize("alert", alerts())
def test_no_alert_is_without_its_tests(alert: str) -> None:
    """Each has a test in which it fires and then ends, and one in which it never fires although it nearly does."""
    comes, stays_away = expectations(alert, "comes and goes"), expectations(alert, "stays away")

    assert comes
    for looks in comes:
        assert any(fires for _, fires in looks)
        assert not looks[-1][1]
    assert stays_away
    assert not any(fires for looks in stays_away for _, fires in looks)
    assert all(looks for looks in stays_away)


def test_no_test_is_without_its_alert() -> None:
    """Every test says in its name which alert it is about, and what it shows."""
    for test in unit_tests():
        name, _, what = test["name"].partition(" ")
        assert name in alerts()
        assert what.startswith(("comes and goes: ", "stays away: "))


@pytest.mark.parametrize("alert", alerts())
def test_alerts_ask_for_series_that_exist(alert: str) -> None:
    """Every metric of ours is one that the daemon has, and so are the labels and words that are asked for."""
    known = families()
    used = re.findall(r"\b(token_sidecar_\w+|kube_pod_\w+)\b(?:\{([^}]*)\})?", alerts()[alert]["expr"])

    assert used
    for name, selectors in used:
        if name.startswith("kube_pod_"):
            continue
        assert name in known
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selectors):
            assert label in known[name]
            if known[name][label]:
                assert set(value.split("|") if "~" in operator else [value]) <= set(known[name][label])


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_says_what_is_wrong(alert: str) -> None:
    """It has our prefix, a severity, a summary, a description and a runbook, and names only labels that it has."""
    rule = alerts()[alert]
    annotations = rule["annotations"]

    assert alert.startswith("TokenSidecar")
    assert rule["labels"] == {"severity": rule["labels"]["severity"]}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert all(annotations.values())
    assert annotations["runbook_url"] == f"docs/runbooks/{alert.lower()}.md"
    named = set(re.findall(r"\$labels\.(\w+)", annotations["summary"] + annotations["description"]))
    kept = re.match(r"(?:count|min|max|sum) by \(([\w, ]+)\)", rule["expr"])
    labels = {label for found in families().values() for label in found}
    assert named <= (set(kept[1].split(", ")) if kept else labels | SCRAPED)


def test_the_alert_and_the_log_agree_on_clocks() -> None:
    """What the daemon warns of in its log is what the alert is about."""
    assert alerts()["TokenSidecarClockSkew"]["expr"].endswith(f">= {SKEW_WORTH_A_WARNING:g}")


# In the chart.


def rendered(helm: Helm, app: Path, **values: Any) -> dict[str, Any]:
    """Return what the chart makes of the rules: the `spec` of its PrometheusRule."""
    own = {"enabled": True, **values}
    manifests = helm.template(app, {"token-sidecar": {"prometheusRule": own}})
    spec: dict[str, Any] = one(manifests, "PrometheusRule")["spec"]
    return spec


def test_the_chart_renders_the_rules_as_they_are(helm: Helm, app: Path, tmp_path: Path) -> None:
    """The specification of a PrometheusRule is a file of rules: it equals the source, and Prometheus takes it."""
    spec = rendered(helm, app)
    written = tmp_path / "rules.yaml"
    written.write_text(yaml.safe_dump(spec), encoding="utf-8")

    assert spec == yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    assert promtool.complaints_about_rules(written) == ""


def test_an_alert_can_be_switched_off_and_weighed_anew(helm: Helm, app: Path) -> None:
    """One that isn't wanted is left out, and another gets the severity that it has at its owner's."""
    off, other = "TokenSidecarOutputNotRead", "TokenSidecarDown"

    [group] = rendered(helm, app, disabled=[off], severities={other: "critical"})["groups"]

    found = {rule["alert"]: rule["labels"] for rule in group["rules"]}
    expected = {name: rule["labels"] for name, rule in alerts().items() if name != off}
    assert found == {**expected, other: {"severity": "critical"}}


@pytest.mark.parametrize(
    "values", [{"disabled": ["TokenSidecarDwn"]}, {"severities": {"TokenSidecarDwn": "info"}}]
)
def test_a_misspelt_alert_is_named(helm: Helm, app: Path, values: dict[str, Any]) -> None:
    """Nobody believes an alert to be off that isn't: Helm refuses, and says which there are."""
    with pytest.raises(HelmError, match=r"there is no alert TokenSidecarDwn; there are TokenSidecar\w+, "):
        rendered(helm, app, **values)


def test_each_alert_leads_to_its_runbook_and_to_the_dashboard(helm: Helm, app: Path) -> None:
    """With the addresses of the site and of Grafana, every alert has links that can be clicked."""
    grafana = "https://grafana.example/d/token-sidecar"

    [group] = rendered(helm, app, runbookUrl="https://docs.example/sidecar/", dashboardUrl=grafana)["groups"]

    for rule in group["rules"]:
        page = f"docs/runbooks/{rule['alert'].lower()}.html"
        assert rule["annotations"]["runbook_url"] == f"https://docs.example/sidecar/{page}"
        assert rule["annotations"]["dashboard_url"] == grafana
