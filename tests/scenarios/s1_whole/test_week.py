"""Scenario S1 for a week: at every minute the file is one with which the SDK does nothing by itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import anyio
import gmail_sdk.auth
from gmail_sdk import GmailClient

from sidecar.formats.gmail_sdk import GmailSdk
from sidecar.testing import faults
from sidecar.tokens import GrantState
from tests.engine.conftest import Daemon, House, anyio_backend, dice, house

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

__all__ = ["anyio_backend", "dice", "house"]

ACCOUNT = "westsidebasketball"
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
OUTAGE = 8 * MINUTE
"""Of the provider and of the store: within the quarter of an hour that is left when a token is due."""


class Pod:
    """A replica, and the volume that it shares with the application."""

    def __init__(self, daemon: Daemon, volume: Path) -> None:
        self.daemon = daemon
        self.volume = volume
        self._published = 0
        volume.mkdir()

    def send_mail(self) -> str:
        """Have the SDK look at what is published, as each of its clients does first; returns the token."""
        published = self.daemon.shelf.publications
        if len(published) > self._published:
            content = GmailSdk().encode(published[-1], include_refresh_token=False)
            (self.volume / f"gmail-{ACCOUNT}.json").write_bytes(content)
            self._published = len(published)
        # Had it to refresh, it would look for a credentials.json, which isn't there.
        return GmailClient._load_and_refresh_token(ACCOUNT, str(self.volume))


async def test_a_week_of_hourly_refreshes(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas, with outages of provider and store three times a day: every mail has a living token."""
    monkeypatch.setattr(gmail_sdk.auth, "time", SimpleNamespace(time=house.clock.wall))
    pods = [
        Pod(house.daemon(seed=seed), tmp_path / f"pod-{number}")
        for number, seed in enumerate([house.provider.new_grant(), None])
    ]
    used: set[str] = set()

    async def outages() -> None:
        while True:
            await anyio.sleep(3 * HOUR + 17 * MINUTE)
            house.provider.add_fault(faults.status(503, times=None))
            await anyio.sleep(OUTAGE)
            house.provider.clear_faults()
            await anyio.sleep(2 * HOUR + 31 * MINUTE)
            house.store.down = True
            await anyio.sleep(OUTAGE)
            house.store.down = False

    async with anyio.create_task_group() as tasks:
        for pod in pods:
            tasks.start_soon(pod.daemon.run, 8 * DAY)
        tasks.start_soon(outages)
        await anyio.sleep(2 * MINUTE)  # for the second to find what the first has stored
        for _ in range(int(7 * DAY / MINUTE)):
            await anyio.sleep(MINUTE)
            tokens = {pod.send_mail() for pod in pods}
            assert all(house.provider.is_live(token) for token in tokens)
            used.update(tokens)
        tasks.cancel_scope.cancel()

    assert 7 * 24 < len(used) < 7 * 24 * 1.5
    assert [pod.daemon.state() for pod in pods] == [GrantState.OK] * 2
    assert house.provider.replayed() == []
    refused = [request for request in house.provider.report().requests if request.outcome != "rotated"]
    assert len(refused) > 5, "the outages came at no time that matters"
