"""Faults of real daemons, a provider and a database, judged by a real Prometheus with the chart's own rules.

The world is sixty times as fast as the rules were written for: see hurried.py. Each daemon has its own fault, all have
them at once, and one has none.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml

from tests.e2e.conftest import Daemon, home, make_daemon, make_simulator, names
from tests.helm.documents import CHART
from tests.prometheus.hurried import hurried
from tests.prometheus.server import Prometheus, Target, running

if TYPE_CHECKING:
    from sidecar.testing import Simulator
    from tests.e2e.conftest import MakeDaemon, MakeSimulator
    from tests.postgres import Server

__all__ = ["home", "make_daemon", "make_simulator", "names"]

ALERTS = CHART / "files" / "alerts.yaml"
FACTOR = 60
LIFE = 15
"""Seconds that an access token lives: a quarter of an hour of the slow world."""
AHEAD = 90.0
"""Seconds by which a provider's clock steps."""
PATIENCE = 90.0

PROMISED = {
    "well": [],
    "revoked": ["TokenSidecarGrantDead", "TokenSidecarTokenExpired"],
    "storeless": ["TokenSidecarStoreUnreachable", "TokenSidecarRefreshOverdue", "TokenSidecarTokenExpired"],
    "skewed": ["TokenSidecarClockSkew"],
    "unread": ["TokenSidecarOutputNotRead"],
}
"""What fires for whom, in this order."""


class Case(NamedTuple):
    """A daemon, and the provider that it has to itself."""

    daemon: Daemon
    simulator: Simulator

    @property
    def file(self) -> Path:
        """What its application reads."""
        return Path(self.daemon.config["tokens"]["gmail"]["outputs"][0]["file"])


class World:
    """All of them, and the applications that read their files."""

    def __init__(self, cases: dict[str, Case]) -> None:
        self.cases = cases
        self.readers = set(cases)
        """Whose application reads."""

    def read(self) -> None:
        """Let each application read its file."""
        for name in self.readers:
            self.cases[name].file.read_bytes()

    def reading(self, condition: Callable[[], object]) -> Callable[[], object]:
        """Have the files read whenever a condition is looked at."""

        def met() -> object:
            self.read()
            return condition()

        return met


@pytest.fixture
def memory() -> Iterator[Path]:
    """Give a directory in memory, on which reads can be told."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def world(
    make_daemon: MakeDaemon, make_simulator: MakeSimulator, server: Server, database: str, memory: Path
) -> World:
    """Run one daemon for each fault."""
    cases = {}
    for name in PROMISED:
        case = cases[name] = Case(make_daemon(), make_simulator(access_ttl=LIFE))
        file = {"file": str(memory / f"{name}.json"), "format": "gmail-sdk"}
        case.daemon.add(case.simulator, outputs=[file], refresh_at=0.4)
    cases["storeless"].daemon.config |= {"store": server.url(database), "namespace": "faults"}
    for case in cases.values():
        case.daemon.launch()
    for case in cases.values():
        case.daemon.wait_until(lambda case=case: case.daemon.answers("/startupz"), "it has started")  # type: ignore[misc]
    return World(cases)


def in_order(prometheus: Prometheus, seconds: float) -> dict[str, list[str]]:
    """Return whose alerts fired within the last seconds, by when they did so first."""
    found: dict[str, list[tuple[float, str]]] = {name: [] for name in PROMISED}
    for labels, values in prometheus.range('ALERTS{alertstate="firing"}', seconds=seconds):
        found[labels["namespace"]].append((values[0][0], labels["alertname"]))
    return {name: [alert for _, alert in sorted(alerts)] for name, alerts in found.items()}


def strike(world: World, server: Server) -> None:
    """Let all faults happen."""
    cases = world.cases
    world.readers.discard("unread")
    cases["revoked"].simulator.provider.kill(reason="revoked")
    cases["skewed"].simulator.provider.reconfigure(clock_skew=AHEAD)
    # Not between lease and commit: what is lost then has an alert of its own.
    storeless = cases["storeless"].daemon
    calls = storeless.refreshes("success")
    storeless.wait_until(lambda: storeless.refreshes("success") > calls, "it was refreshed")
    storeless.wait_until(lambda: not storeless.metric("unpersisted_rotations"), "it is committed")
    server.stop()


def mend(world: World, server: Server) -> None:
    """Do about each fault what its runbook says."""
    cases = world.cases
    server.start()
    revoked, skewed = cases["revoked"], cases["skewed"]
    revoked.daemon.seed(revoked.simulator.provider.new_grant())
    skewed.simulator.provider.reconfigure(clock_skew=0.0)
    skewed.daemon.control.refresh("gmail")
    world.readers.add("unread")


@pytest.mark.timeout(240)
def test_the_right_alerts_fire_in_the_promised_order(
    world: World, server: Server, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A revoked grant, a store that is away, a clock that steps and an application that stops reading: no other fires.

    And each is over once the fault is mended.
    """
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(hurried(ALERTS, FACTOR)), encoding="utf-8")
    began = time.monotonic()
    with running(targets(world), rules=[rules]) as prometheus:
        prometheus.wait_until(world.reading(lambda: have_been_well(prometheus)), patience=PATIENCE)
        strike(world, server)
        try:
            prometheus.wait_until(world.reading(lambda: all_fire(prometheus)), patience=PATIENCE)
        finally:
            mend(world, server)
        prometheus.wait_until(world.reading(lambda: not prometheus.alerts()), patience=PATIENCE)
        assert in_order(prometheus, time.monotonic() - began) == PROMISED
    record_property("figures", f"all alerts fired, and were over, within {time.monotonic() - began:.0f} s")


def targets(world: World) -> list[Target]:
    """Return the daemons as Kubernetes' discovery would: each the one pod of a namespace."""
    return [
        Target(
            urlsplit(case.daemon.url).netloc,
            labels={"namespace": name, "pod": f"{name}-0", "container": "token-sidecar"},
        )
        for name, case in world.cases.items()
    ]


def have_been_well(prometheus: Prometheus) -> bool:
    """Tell whether each daemon was seen to be well, and its file to be read, through several scrapes."""
    assert prometheus.alerts() == []
    read = "count_over_time((token_sidecar_output_read_since_write == 1)[30s:1s]) > 3"
    return len(prometheus.instant(read)) == len(PROMISED)


def all_fire(prometheus: Prometheus) -> bool:
    """Tell whether whatever was promised fires now."""
    return {(one["namespace"], one["alertname"]) for one in prometheus.alerts()} >= {
        (name, alert) for name, alerts in PROMISED.items() for alert in alerts
    }
