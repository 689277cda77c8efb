from __future__ import annotations

from itertools import pairwise
from typing import Any

import anyio
import pytest
import trio.testing

from sidecar.enrol import device
from sidecar.errors import ConsentFailed, ConsentRefused, NoAnswer, TemporarilyUnavailable
from sidecar.testing import Consent
from tests.enrol.conftest import Desk, MakeDesk

SCOPES = ("mail.read",)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
def anyio_backend(autojump_clock: trio.testing.MockClock) -> tuple[str, dict[str, Any]]:
    """Nobody really waits for a human here."""
    return "trio", {"clock": autojump_clock}


async def begun(desk: Desk) -> device.Device:
    """Ask for a code."""
    await desk.provider.locate("device_authorization_url")
    return await device.begin(desk.provider, SCOPES)


def gaps(desk: Desk) -> list[float]:
    """Tell how long was waited between two questions."""
    moments = [at for at, path, _ in desk.wire.sent if path == "/token"]
    return [later - earlier for earlier, later in pairwise(moments)]


async def test_it_is_asked_until_the_human_has_decided(make_desk: MakeDesk) -> None:
    """At the provider's pace, and the pair is as good as any."""
    desk = make_desk(consent=Consent.PENDING, device_interval=7)
    found = await begun(desk)
    assert found.complete_url.endswith(found.code)
    assert "sim-" not in repr(found)

    async def consent() -> None:
        await anyio.sleep(30)
        desk.simulated.reconfigure(consent=Consent.GIVEN)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consent)
        seeding = await device.wait(desk.provider, found, SCOPES)
    assert seeding.access is not None
    assert desk.simulated.is_live(seeding.access.value)
    assert gaps(desk) == [7, 7, 7, 7]


async def test_slow_down_adds_five_seconds(make_desk: MakeDesk) -> None:
    """For all questions from then on (RFC 8628 §3.5)."""
    desk = make_desk(consent=Consent.PENDING, device_interval=4, device_code_ttl=60)
    found = await begun(desk)
    impatient = device.Device(found.code, found.url, "", found.expires_in, 1.0, found.secret)
    with pytest.raises(TemporarilyUnavailable):
        await device.wait(desk.provider, impatient, SCOPES)

    assert gaps(desk)[:4] == [1, 6, 6, 6]
    assert [record.outcome for record in desk.simulated.report().requests].count("slow_down") == 1


async def test_a_connection_that_fails_doubles_the_pause(make_desk: MakeDesk) -> None:
    """Trouble on the way ends no wait, and slows it down (RFC 8628 §3.5)."""
    desk = make_desk(device_interval=5)
    found = await begun(desk)
    desk.wire.problems = [NoAnswer("the connection broke"), NoAnswer("the connection broke")]
    assert (await device.wait(desk.provider, found, SCOPES)).fingerprint
    assert gaps(desk) == [10, 20]


async def test_a_refusal_is_told(make_desk: MakeDesk) -> None:
    """Exit code 3: a human decided, and only a human can decide otherwise."""
    desk = make_desk(consent=Consent.REFUSED)
    with pytest.raises(ConsentRefused):
        await device.wait(desk.provider, await begun(desk), SCOPES)


@pytest.mark.parametrize("forgetful", [False, True])
async def test_a_human_who_does_not_come(forgetful: bool, make_desk: MakeDesk) -> None:  # noqa: FBT001
    """The wait ends when the code does, whether the provider says so or only said when it would."""
    desk = make_desk(consent=Consent.PENDING, device_code_ttl=62 if forgetful else 60)
    found = await begun(desk)
    if forgetful:
        desk.simulated.reconfigure(device_code_ttl=9000)
    began = anyio.current_time()
    with pytest.raises(TemporarilyUnavailable, match="nobody consented in time"):
        await device.wait(desk.provider, found, SCOPES)
    assert 55 <= anyio.current_time() - began <= 65


async def test_a_provider_without_devices(desk: Desk) -> None:
    """What it answers instead is told, and never as a way out for terminals."""
    desk.wire.reshape = lambda _: {"error": "unauthorized_client"}
    with pytest.raises(ConsentFailed, match="unauthorized_client"):
        await begun(desk)
    desk.wire.reshape = lambda answer: {**answer, "verification_uri": "javascript:alert(1)"}
    with pytest.raises(ConsentFailed):
        await begun(desk)
