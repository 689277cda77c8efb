"""Scenario S3, the calendar: a grant of seven days is renewed because somebody is told on day six."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import anyio
from prometheus_client.parser import text_string_to_metric_families

from sidecar.observers.metrics import Metrics
from sidecar.ports import Seeding
from sidecar.pulse import Heartbeats
from sidecar.testing import Rotation
from sidecar.tokens import GrantState, RefreshToken
from tests import promtool
from tests.engine.conftest import EPOCH, STEADY, Daemon, House, anyio_backend, dice
from tests.helm import documents

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["anyio_backend", "dice"]

ALERTS = documents.CHART / "files" / "alerts.yaml"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SCRAPE = 20 * MINUTE
OVERSLEPT = 2 * HOUR
"""From the death to the new consent."""


class Scraper:
    """What Prometheus would have of one daemon, with time counted from the consent."""

    def __init__(self, house: House, daemon: Daemon) -> None:
        self._daemon = daemon
        self._page = Metrics(
            clock=house.clock, heartbeats=Heartbeats(house.clock), store="memory", version="1.0"
        )
        self.series: dict[str, list[str]] = {}

    def scrape(self) -> None:
        """Take one sample of each series that is about the token."""
        page, _ = self._page.render([self._daemon.view])
        self.series.setdefault("up", []).append("1")
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                if "token" in sample.labels:
                    labels = ", ".join(f'{name}="{value}"' for name, value in sample.labels.items())
                    value = sample.value - EPOCH * (sample.name.endswith("timestamp_seconds"))
                    self.series.setdefault(f"{sample.name}{{{labels}}}", []).append(_written(value))

    async def watch(self, seconds: float) -> None:
        """Scrape for so long."""
        for _ in range(round(seconds / SCRAPE)):
            self.scrape()
            await anyio.sleep(SCRAPE)


def _written(value: float) -> str:
    if math.isfinite(value):
        return f"{value:g}" if abs(value) < 1e5 else str(round(value))
    return "NaN" if math.isnan(value) else "Inf"


async def test_somebody_is_told_on_day_six(tmp_path: Path) -> None:
    """The warning comes a day before the death, other alerts only after it, and a new consent ends them all."""
    house = House(tmp_path, rotation=Rotation.NEVER, access_ttl=HOUR, refresh_ttl=7 * DAY)
    daemon = house.daemon(profile=STEADY, seed=house.provider.new_grant(), refresh_token_ttl=7 * DAY)
    scraper = Scraper(house, daemon)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.run, 8 * DAY)
        await anyio.sleep(1)
        await scraper.watch(7 * DAY + OVERSLEPT)
        assert daemon.state() is GrantState.DEAD
        consent = Seeding(RefreshToken(house.provider.new_grant(), house.clock.wall()))
        await daemon.renewer.plant(consent, origin="login")
        await scraper.watch(2 * HOUR)
        assert daemon.state() is GrantState.OK
        tasks.cancel_scope.cancel()

    due, dead = "TokenSidecarConsentDue", "TokenSidecarGrantDead"
    expired = "TokenSidecarTokenExpired"
    expected = {
        "143h": [],
        "145h": [due],
        "167h40m": [due],
        "169h40m": [due, dead, expired],
        "171h": [],
    }
    assert promtool.alerts_at(tmp_path, ALERTS, scraper.series, interval="20m", expected=expected) == ""
