"""Every query of the dashboard, asked as Grafana asks it: a real Prometheus that scraped a real daemon answers.

The daemon is scraped twice: as a host's, and as a pod's, with the labels that Kubernetes' discovery adds.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from sidecar.ports import Seeding
from sidecar.server.wire import SeedRequest
from sidecar.tokens import GrantState, RefreshToken
from tests.e2e.conftest import (
    EAGER,
    MakeDaemon,
    MakeSimulator,
    home,
    make_daemon,
    make_simulator,
    names,
)
from tests.helm.dashboard import URGENCY
from tests.helm.documents import CHART
from tests.prometheus import server

__all__ = ["home", "make_daemon", "make_simulator", "names"]

HOST, POD = "hosts", "mail/token-sidecar"
POD_LABELS = {"namespace": "mail", "pod": "basketball-0", "container": "token-sidecar"}
EVERYWHERE = {name: [".*"] for name in ("namespace", "job", "pod", "instance", "token")}
"""All of everything, as it is when the dashboard is opened."""

QUIET = {"Restart", "Replicas not scraped", "Configurations refused", "Written, and not read since"}
"""What has nothing to show here, or only where a file system tells who reads."""

DASHBOARD: dict[str, Any] = json.loads((CHART / "files" / "dashboard.json").read_text(encoding="utf-8"))
PANELS: dict[str, dict[str, Any]] = {
    panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"
}
VARIABLES = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]


class Query(NamedTuple):
    """One query, whose it is, and the labels that are shown of it."""

    of: str
    expr: str
    shown: set[str]


def _labels(legend: str) -> set[str]:
    return {*re.findall(r"{{(\w+)}}", legend)}


QUERIES = [
    *(
        Query(title, target["expr"], _labels(target.get("legendFormat", "")))
        for title, panel in PANELS.items()
        for target in panel["targets"]
    ),
    *(
        Query(one["name"], one["target"]["expr"], _labels(one["textFormat"]))
        for one in DASHBOARD["annotations"]["list"]
    ),
]


def _organized(panel: dict[str, Any]) -> dict[str, Any]:
    """Return how a table's columns are named and ordered."""
    [options] = [step["options"] for step in panel["transformations"] if step["id"] == "organize"]
    return dict(options)


def asked(expr: str, **chosen: list[str]) -> str:
    """Put in place of the variables what Grafana does, for a range of six hours and scrapes each 30 seconds."""
    given = {name: _alternatives(values) for name, values in {**EVERYWHERE, **chosen}.items()}
    given |= {"__range": "21600s", "__rate_interval": "2m"}
    return re.sub(r"\$([a-z_]+)", lambda found: given[found[1]], expr)


def _alternatives(values: list[str]) -> str:
    if values == [".*"]:
        return ".*"
    quoted = [re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\" * 4)) for value in values]
    return quoted[0] if len(quoted) == 1 else f"({'|'.join(quoted)})"


def cell(prometheus: server.Prometheus, title: str, column: str, **labels: str) -> float:
    """Return what a table shows in a column, in the row that has these labels."""
    panel = PANELS[title]
    [value] = [name for name, shown in _organized(panel)["renameByName"].items() if shown == column]
    [expr] = [one["expr"] for one in panel["targets"] if value in {"Value", f"Value #{one['refId']}"}]
    [found] = [one for one in prometheus.instant(asked(expr)) if one.labels == labels]
    return found.value


HAPPENED = (
    'increase(token_sidecar_refreshes_total{token="healthy",outcome="success"}[1h]) > 1',
    'increase(token_sidecar_refreshes_total{token="dead",outcome="dead"}[1h]) > 0',
    'increase(token_sidecar_output_writes_total{token="torn",outcome="failed"}[1h]) > 0',
    'increase(token_sidecar_hook_runs_total{token="healthy",outcome="failed"}[1h]) > 0',
    'token_sidecar_grant_state{token="people/*",state="ok"} == 2',
)
"""What the dashboard shall tell of."""


@pytest.fixture(scope="module")
def prometheus(make_daemon: MakeDaemon, make_simulator: MakeSimulator) -> Iterator[server.Prometheus]:
    """Scrape a daemon whose tokens are in all kinds of states."""
    simulator, daemon = make_simulator(), make_daemon()
    gone, many = daemon.folder / "gone", daemon.folder / "many"
    gone.mkdir()
    many.mkdir()
    hook = {"name": "deaf", "exec": {"argv": ["/bin/false"]}, "attempts": 1}
    daemon.add(simulator, "healthy", refresh_token_ttl="5d", after_refresh=[hook], **EAGER)
    daemon.add(simulator, "torn", outputs=[{"file": str(gone / "token"), "required": False}], **EAGER)
    mortal = daemon.add(simulator, "dead", **EAGER)
    daemon.add(simulator, "unseeded")
    daemon.change("unseeded", seed=None)
    daemon.add(simulator, "people", for_each={"every": "1s", "max_series": 1})
    daemon.change("people", seed=None, outputs=[{"file": str(many / "{account}.json")}])
    daemon.start(probe="/livez")
    shutil.rmtree(gone)
    for account in ("ann", "bob", "carl"):
        seed = Seeding(RefreshToken(simulator.provider.new_grant(), 1.0))
        daemon.control.seed(f"people/{account}", SeedRequest(seed))
    address = urlsplit(daemon.url).netloc
    with server.running([server.Target(address, HOST), server.Target(address, POD, POD_LABELS)]) as started:
        started.wait_for_scrapes()
        simulator.provider.kill(mortal)
        for expr in HAPPENED:
            both = partial(_has_two, started, expr)
            daemon.wait_until(both, expr, patience=server.PATIENCE)
        yield started


def _has_two(prometheus: server.Prometheus, expr: str) -> bool:
    return len(prometheus.instant(expr)) == 2


def test_each_query_has_an_answer(prometheus: server.Prometheus) -> None:
    """Prometheus takes them all, and finds series, with the labels that are shown; on a host, and in a cluster."""
    for query in QUERIES:
        for place in (
            {},
            {"job": [HOST]},
            {"job": [POD], "namespace": ["mail"], "pod": ["basketball-0", "other"]},
        ):
            found = prometheus.instant(asked(query.expr, **place))

            assert found or query.of in QUIET, query
            labels = query.shown - (set() if "pod" in place else {"namespace"})
            assert all(labels <= one.labels.keys() for one in found), query


def test_each_selector_is_of_something_that_exists(prometheus: server.Prometheus) -> None:
    """Metrics, labels and values that a query names are there: a wrong one would be an empty panel for ever."""
    selectors = {selector for query in QUERIES for selector in re.findall(r"\b[a-z_]+\{[^}]*\}", query.expr)}

    for selector in selectors:
        assert prometheus.instant(asked(selector)), selector
        for label in re.findall(r"(\w+)!?[=~]+\"", selector):
            assert prometheus.instant(asked(selector.replace("}", f',{label}!=""}}'))), f"{selector}: {label}"


def test_rows_of_a_table_meet(prometheus: server.Prometheus) -> None:
    """All queries of a table give the same labels, or Grafana would have a row for each."""
    for title, panel in PANELS.items():
        if panel["type"] == "table":
            keys = [key for key in _organized(panel)["indexByName"] if not key.startswith("Value")]
            for query in (one for one in QUERIES if one.of == title):
                found = prometheus.instant(asked(query.expr, job=[POD]))

                assert all(one.labels.keys() - {"version"} == {*keys} - {"version"} for one in found), query
                assert len({tuple(sorted(one.labels.items())) for one in found}) == len(found)


def test_the_table_of_tokens_tells_the_truth(prometheus: server.Prometheus) -> None:
    """A healthy token has time left, a dead and an unseeded one say so, and accounts are told of together."""

    def shown(column: str, token: str) -> float:
        labels = {"namespace": "mail", "job": POD, "token": token}
        return cell(prometheus, "Tokens, the least time left first", column, **labels)

    assert 3000 < shown("Time left", "healthy") <= 3600
    assert shown("Time left", "healthy") == pytest.approx(shown("The daemon holds", "healthy"), abs=30)
    assert shown("Of the promise", "healthy") == pytest.approx(shown("Time left", "healthy") / 600, abs=0.1)
    assert shown("Time left", "unseeded") < -1e9
    assert math.isnan(shown("The daemon holds", "unseeded"))
    states = {
        "healthy": GrantState.OK, "people/*": GrantState.OK, "dead": GrantState.DEAD, "unseeded": GrantState.UNSEEDED
    }  # fmt: skip
    assert {token: [*URGENCY][int(shown("State", token))] for token in states} == states
    assert shown("Replicas", "people/*") == 1


def test_the_numbers_tell_the_truth(prometheus: server.Prometheus) -> None:
    """What needs somebody is counted once for each replica's place, and what is well is zero."""
    numbers = {
        title: prometheus.value(asked(panel["targets"][0]["expr"], job=[HOST]))
        for title, panel in PANELS.items()
        if panel["type"] == "stat"
    }

    assert numbers == {
        "Dead grants": 1.0,
        "Consents due in a week": 1.0,
        "Rotations in memory only": 0.0,
        "Failed store operations": 0.0,
        "Configurations refused": 0.0,
        "Replicas not scraped": 0.0,
    }
    needy = [
        one.labels["token"]
        for one in prometheus.instant(
            asked(PANELS["Grants that need somebody"]["targets"][0]["expr"], job=[HOST])
        )
    ]
    assert sorted(needy) == ["dead", "unseeded"]


def test_the_variables_offer_what_there_is(prometheus: server.Prometheus) -> None:
    """Each lists its label's values, and one with signs that mean something in an expression can be chosen."""
    offered = {}
    for one in VARIABLES:
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", one["query"]["query"]).groups()  # type: ignore[union-attr]
        offered[one["name"]] = prometheus.api(f"label/{label}/values", **{"match[]": asked(series)})

    assert offered["namespace"] == ["mail"]
    assert offered["job"] == [HOST, POD]
    assert offered["pod"] == ["basketball-0"]
    assert len(offered["instance"]) == 1
    assert {"healthy", "dead", "unseeded", "torn", "people/*"} <= {*offered["token"]}
    chosen = asked('token_sidecar_min_validity_seconds{token=~"$token"}', token=["people/*", "dead"])
    assert {one.labels["token"] for one in prometheus.instant(chosen)} == {"people/*", "dead"}
