from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from sidecar.observers import metrics
from sidecar.tokens import GrantState
from tests.helm import dashboard, documents
from tests.helm.cases import CASES
from tests.helm.release import Helm, one

MODEL: dict[str, Any] = json.loads(documents.DASHBOARD.read_text(encoding="utf-8"))
PANELS = [panel for panel in MODEL["panels"] if panel["type"] != "row"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

APPLIED = 262144
"""Bytes that an object's annotations may have: `kubectl apply` keeps all of what it was given in one."""

titles = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: str(panel["title"]))


def settings(panel: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a panel sets for some of its columns."""
    return {
        override["matcher"]["options"]: {one["id"]: one["value"] for one in override["properties"]}
        for override in panel["fieldConfig"].get("overrides", [])
    }


def test_the_dashboard_is_what_its_code_makes() -> None:
    """The file in the chart is written from tests/helm/dashboard.py, the same each time."""
    assert documents.DASHBOARD.read_text(encoding="utf-8") == dashboard.text(), (
        "write it anew with: make chart"
    )


def test_the_dashboard_is_one_to_grafanas_classes() -> None:
    """Read into the library's classes and written again it is the same: no member is misspelt or misplaced."""
    register_default_plugins()
    ours = json.loads(documents.DASHBOARD.read_text(encoding="utf-8"))
    theirs = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))

    for model in (ours, theirs):
        for annotation in model["annotations"]["list"]:
            # The library knows only Grafana's own annotations.
            for member in ("target", "step", "titleFormat", "textFormat"):
                annotation.pop(member, None)
    assert theirs == ours


def test_every_panel_has_a_number_and_a_place_of_its_own() -> None:
    """No two have the same id, none overlaps another, and none leaves the grid, which is 24 columns wide."""
    ids = [panel["id"] for panel in MODEL["panels"]]
    cells = [
        cell
        for place in (panel["gridPos"] for panel in MODEL["panels"])
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]

    assert len({*ids}) == len(ids)
    assert 0 not in ids
    assert len({*cells}) == len(cells)
    assert max(column for column, _ in cells) < 24
    assert MODEL["panels"][0]["type"] == "table", "one row for each token comes first"


@titles
def test_every_panel_says_what_it_is_and_what_to_do(panel: dict[str, Any]) -> None:
    """It has a title, a sentence, words for when there is nothing, and the data source that was chosen."""
    assert panel["title"]
    assert re.fullmatch(r"[A-Z`].*\.", panel["description"])
    assert panel["fieldConfig"]["defaults"]["noValue"]
    assert panel["datasource"] == SOURCE
    assert [target["refId"] for target in panel["targets"]] == [*"ABCDEFGH"[: len(panel["targets"])]]
    assert all(target["datasource"] == SOURCE for target in panel["targets"])
    assert all(target["instant"] is (panel["type"] != "timeseries") for target in panel["targets"])


@titles
def test_every_number_has_a_unit(panel: dict[str, Any]) -> None:
    """Each line, number and column is shown in a unit, or in words."""
    if panel["type"] != "table":
        assert panel["fieldConfig"]["defaults"]["unit"]
        return
    [named] = [step["options"] for step in panel["transformations"] if step["id"] == "organize"]
    values = {title for name, title in named["renameByName"].items() if name.startswith("Value")}
    assert values <= settings(panel).keys()
    for title in values:
        look = settings(panel)[title]
        assert "unit" in look or any(one["type"] == "value" for one in look["mappings"])


@titles
def test_a_table_names_only_columns_that_it_has(panel: dict[str, Any]) -> None:
    """Its order and the looks of its columns are for columns that its queries give."""
    if panel["type"] != "table":
        return
    steps = {step["id"]: step["options"] for step in panel["transformations"]}
    several = len(panel["targets"]) > 1
    values = {f"Value #{target['refId']}" if several else "Value" for target in panel["targets"]}
    named = steps["organize"]["renameByName"]

    assert [*steps] == (["merge", "organize"] if several else ["organize"])
    assert {name for name in steps["organize"]["indexByName"] if name.startswith("Value")} == values
    assert settings(panel).keys() <= {*named.values()}
    assert {one["displayName"] for one in panel["options"]["sortBy"]} <= {*named.values()}
    assert len({*named.values()}) == len(named)


def selectors() -> set[tuple[str, str]]:
    """Return what the queries ask for: metrics, and what stands in braces behind them."""
    queries = [target["expr"] for panel in PANELS for target in panel["targets"]]
    for annotation in MODEL["annotations"]["list"]:
        assert annotation["expr"] == annotation["target"]["expr"]
        queries.append(annotation["expr"])
    for query in queries:
        assert query.count("(") == query.count(")")
    return {found for query in queries for found in re.findall(r"(\w+)\{([^}]*)\}", query)}


def test_every_query_asks_for_what_the_daemon_has() -> None:
    """Each metric is one of ours or one that every target has, with labels and states that exist."""
    ours = {definition.family: {*definition.labels} for definition in metrics.DEFINITIONS.values()}
    ours["token_sidecar_refresh_duration_seconds_bucket"] = {"provider"}

    for metric, chosen in selectors():
        assert metric in ours or re.fullmatch(r"up|process_[a-z_]+", metric)
        for label, value in re.findall(r'(\w+)!?[=~]+"([^"]*)"', chosen):
            assert label in ours.get(metric, set()) | {*dashboard.PLACE}
            assert label != "state" or {*value.split("|")} <= {*GrantState}


def test_every_query_is_of_what_was_chosen() -> None:
    """Each asks for the chosen places only, and what is of a token for the chosen tokens."""
    offered = [one["name"] for one in MODEL["templating"]["list"]]
    of_tokens = {one.family for one in metrics.DEFINITIONS.values() if "token" in one.labels}

    assert offered == ["datasource", *dashboard.PLACE, "token"]
    for metric, chosen in selectors():
        for name in (*dashboard.PLACE, *(["token"] if metric in of_tokens else [])):
            assert f'{name}=~"${name}"' in chosen


def test_the_dashboard_fits_into_a_config_map() -> None:
    """It may be applied with kubectl, which keeps a second copy of it in an annotation."""
    text = documents.DASHBOARD.read_text(encoding="utf-8")

    assert len(json.dumps(text)) < 0.75 * APPLIED


def test_the_runbooks_that_are_named_are_those_of_alerts() -> None:
    """Where a panel sends its reader, there is an alert with this page."""
    named = {*re.findall(r"docs/runbooks/(\w+)\.md", documents.DASHBOARD.read_text(encoding="utf-8"))}
    alerts = re.findall(
        r"- alert: (\w+)", (documents.CHART / "files" / "alerts.yaml").read_text(encoding="utf-8")
    )

    assert named <= {alert.lower() for alert in alerts}


def test_tokens_are_links_where_there_is_a_console(helm: Helm, app: Path) -> None:
    """With the console's address each token's name leads to its page; all else is as it is in the chart."""
    values = CASES["monitored"]["token-sidecar"] | {"config": {"console": {"url": "https://tokens.example/"}}}
    manifests = helm.template(app, {"token-sidecar": values})

    shown = json.loads(
        one(manifests, "ConfigMap", name="basketball-token-sidecar-dashboard")["data"]["token-sidecar.json"]
    )
    added = shown["panels"][0]["fieldConfig"]["overrides"].pop()
    assert added["matcher"]["options"] == "Token"
    [link] = added["properties"][0]["value"]
    assert link["url"] == "https://tokens.example/tokens/${__value.raw}"
    assert shown == MODEL
