"""The script of faults and what it makes of an answer, and conversations in memory on trio's mock clock."""

from __future__ import annotations

import json
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import pytest
import trio.testing

from sidecar.testing import (
    Delivery,
    Fate,
    Fault,
    NoAnswer,
    Provider,
    ProviderConfig,
    Reply,
    faults,
    fingerprint,
    request_token,
)

NOW = 1_800_000_000.0


def made() -> Provider:
    """Make a provider with a public client, which needs no header."""
    return Provider(ProviderConfig(client_secret=None, access_ttl=3600), now=lambda: NOW)


def form(token: str | None = None) -> dict[str, str]:
    """Make a request: a refresh, or client credentials."""
    if token is None:
        return {"grant_type": "client_credentials", "client_id": "sim-client"}
    return {"grant_type": "refresh_token", "refresh_token": token, "client_id": "sim-client"}


def answered(fault: Fault) -> Reply:
    """Give the answer to a good request under a fault."""
    provider = made()
    provider.add_fault(fault)
    return provider.token(form(provider.new_grant()))


def test_faults_are_taken_in_order_and_used_up() -> None:
    """One-shot faults make a sequence, after which the provider behaves."""
    provider = made()
    provider.add_fault(faults.status(500, times=2), faults.status(429, retry_after=7))
    replies = [provider.token(form()) for _ in range(4)]
    assert [reply.status for reply in replies] == [500, 500, 429, 200]
    assert replies[2].headers["Retry-After"] == "7"
    assert [record.faulted for record in provider.report().requests] == [True, True, True, False]


def test_a_persistent_fault_lasts_until_cleared() -> None:
    """`times` None takes every request."""
    provider = made()
    provider.add_fault(faults.status(500, times=None))
    assert {provider.token(form()).status for _ in range(5)} == {500}
    provider.clear_faults()
    assert provider.token(form()).status == 200


def test_a_fault_can_let_requests_pass_first() -> None:
    """`skip` 2 breaks the third request."""
    provider = made()
    provider.add_fault(faults.status(500, skip=2))
    assert [provider.token(form()).status for _ in range(4)] == [200, 200, 500, 200]


def test_a_fault_can_wait_for_a_grant_type_or_a_token() -> None:
    """Other requests leave it armed."""
    provider = made()
    mine, other = provider.new_grant(), provider.new_grant()
    provider.add_fault(faults.status(500, fingerprint=fingerprint(mine), grant_type="refresh_token"))
    assert provider.token(form()).status == 200
    assert provider.token(form(other)).status == 200
    assert provider.token(form(mine)).status == 500
    assert provider.report().faults_armed == 0


def test_retry_after_can_be_a_date_by_the_providers_clock() -> None:
    """An HTTP date is the other form that RFC 9110 section 10.2.3 allows."""
    reply = answered(Fault(status=429, retry_after=60, retry_after_date=True, processed=False))
    assert parsedate_to_datetime(reply.headers["Retry-After"]).timestamp() == NOW + 60


@pytest.mark.parametrize("value", ["3600", 0, -5, 3599.5, faults.HUGE_SECONDS, None])
def test_expires_in_can_be_anything(value: object) -> None:
    """The rest of the answer stays as it was."""
    members = answered(faults.expires_in(value)).json()
    assert members["expires_in"] == value
    assert members["access_token"].startswith("sim-at-")


def test_members_can_be_missing_or_added() -> None:
    """`without` removes, `extra` adds."""
    assert "expires_in" not in answered(faults.without("expires_in")).json()
    assert answered(faults.extra({"instance_url": "https://eu"})).json()["instance_url"] == "https://eu"


@pytest.mark.parametrize(
    ("fault", "status", "members"),
    [
        (
            faults.error(403, "invalid_grant", "gone"),
            403,
            {"error": "invalid_grant", "error_description": "gone"},
        ),
        (faults.error(400, "slow_down"), 400, {"error": "slow_down"}),
        (faults.error_at_200("bad_refresh_token"), 200, {"ok": False, "error": "bad_refresh_token"}),
    ],
)
def test_errors_come_at_any_status(fault: Fault, status: int, members: dict[str, Any]) -> None:
    """Providers disagree about statuses; the script can say what each of them says."""
    reply = answered(fault)
    assert (reply.status, reply.json()) == (status, members)


def test_bodies_that_are_no_tokens() -> None:
    """A web page, nothing, half of the JSON, another type, a redirect."""
    page = answered(faults.html())
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answered(faults.empty()).body == b""
    with pytest.raises(json.JSONDecodeError):
        answered(faults.truncated()).json()
    assert answered(faults.content_type("text/plain")).headers["Content-Type"] == "text/plain"
    moved = answered(faults.redirect("https://elsewhere.example/token", 307))
    assert (moved.status, moved.headers["Location"]) == (307, "https://elsewhere.example/token")
    assert answered(faults.huge()).padding == 50_000_000


def test_the_same_token_again() -> None:
    """A living access token is answered once more, and the refresh token stays."""
    provider = made()
    pair = provider.token(form(provider.new_grant())).json()
    provider.add_fault(faults.same_token())
    again = provider.token(form(pair["refresh_token"])).json()
    assert again["access_token"] == pair["access_token"]
    assert "refresh_token" not in again


def test_an_error_status_may_hide_a_rotation() -> None:
    """A processed 500 is the in-doubt case with an answer."""
    provider = made()
    seed = provider.new_grant()
    provider.add_fault(faults.status(500, processed=True))
    reply = provider.token(form(seed))
    assert (reply.status, reply.json()) == (500, {})
    assert provider.report().tokens[0].replaced


@pytest.mark.parametrize(
    "wrong",
    [{"keep": 2.0}, {"latency_before": -1.0}, {"status": 99}, {"trickle_bytes": 0}],
)
def test_impossible_faults_are_refused(wrong: dict[str, Any]) -> None:
    """A fault that can't happen is an error when it is written."""
    with pytest.raises(ValueError, match=r"must|can't"):
        Fault(**wrong)


def virtual(scenario: Any) -> float:
    """Run an async scenario on virtual time and give the seconds that passed in it."""

    async def timed() -> float:
        start = trio.current_time()
        await scenario()
        return trio.current_time() - start

    return trio.run(timed, clock=trio.testing.MockClock(autojump_threshold=0))


def test_latencies_pass_on_the_mock_clock() -> None:
    """An hour of latency costs no real time."""
    provider = made()
    provider.add_fault(faults.latency(before=3600, after=1800))

    async def scenario() -> None:
        assert (await request_token(provider, form())).status == 200

    assert virtual(scenario) == pytest.approx(5400)


def test_a_trickled_answer_takes_its_time() -> None:
    """So many bytes at once, so many seconds between them."""
    provider = made()
    provider.add_fault(faults.trickle(bytes_at_once=10, interval=2))
    sizes: list[int] = []

    async def scenario() -> None:
        sizes.append(len((await request_token(provider, form())).body))

    assert virtual(scenario) == pytest.approx(sizes[0] / 10 * 2)


@pytest.mark.parametrize("delivery", [Delivery.RESET, Delivery.CLOSE, Delivery.HALF])
def test_a_cut_answer_is_a_lost_connection(delivery: Delivery) -> None:
    """The rotation has happened; the caller gets `NoAnswer`."""
    provider = made()
    seed = provider.new_grant()
    provider.add_fault(Fault(delivery=delivery))

    async def scenario() -> None:
        with pytest.raises(NoAnswer):
            await request_token(provider, form(seed))

    virtual(scenario)
    assert provider.report().tokens[0].cut == 1


@pytest.mark.parametrize(
    "fault", [faults.hold(processed=True), faults.latency(before=60), faults.latency(after=60)]
)
def test_a_caller_that_gives_up_leaves_a_processed_request(fault: Fault) -> None:
    """A provider goes on when its client has hung up: the answer is lost, the rotation is not."""
    provider = made()
    seed = provider.new_grant()
    provider.add_fault(fault)

    async def scenario() -> None:
        with anyio.move_on_after(20) as scope:
            await request_token(provider, form(seed))
        assert scope.cancelled_caught

    assert virtual(scenario) == pytest.approx(20)
    assert provider.report().tokens[0].replaced
    assert provider.report().requests[0].fate is Fate.CUT
    assert provider.report().in_flight == 0
