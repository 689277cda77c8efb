from __future__ import annotations

import msgspec
import pytest

from sidecar.enrol import revocation
from sidecar.enrol.revocation import NotRevoked
from sidecar.errors import NoAnswer, SidecarError, TemporarilyUnavailable, UsageError
from sidecar.testing.faults import Reply
from sidecar.tokens import Record, RefreshToken
from tests.enrol.conftest import BASE, EPOCH, PROFILE, Desk


def held(desk: Desk) -> Record:
    """Make a record with a new grant of this provider."""
    refresh = RefreshToken(desk.simulated.new_grant(), EPOCH)
    return Record(lineage="l", refresh=refresh, client_id="sim-client", endpoint=BASE)


async def test_the_provider_is_told(desk: Desk) -> None:
    """What is sent is what RFC 7009 wants, by a client that proves itself; then the grant is over."""
    record = held(desk)
    await revocation.revoke(desk.provider, record)

    assert record.refresh is not None
    assert desk.simulated.introspect(record.refresh.value) == {"active": False}
    [(_, path, form)] = desk.wire.sent
    assert (path, form["token"], form["token_type_hint"]) == (
        "/revoke",
        record.refresh.value,
        "refresh_token",
    )
    assert form["client_id"] == "sim-client"


@pytest.mark.parametrize(
    ("status", "error", "kind", "told"),
    [
        (503, "", TemporarilyUnavailable, "may still be alive"),
        (400, "unsupported_token_type", NotRevoked, "revokes no refresh tokens"),
        (401, "invalid_client", NotRevoked, "invalid_client; nothing was revoked"),
        (400, "invalid_token", None, ""),
        (302, "", NotRevoked, "HTTP 302"),
    ],
)
async def test_what_is_answered_instead(
    status: int,
    error: str,
    kind: type[SidecarError] | None,
    told: str,
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A grant counts as revoked only when the provider says so, or doesn't know it (RFC 7009 §2.2)."""
    reply = Reply(status, {}, msgspec.json.encode({"error": error} if error else {}))
    monkeypatch.setattr(desk.simulated, "revocation", lambda *_: reply)
    if kind is None:
        await revocation.revoke(desk.provider, held(desk))
        return
    with pytest.raises(kind, match=told):
        await revocation.revoke(desk.provider, held(desk))


async def test_a_lost_answer_is_no_revocation(desk: Desk) -> None:
    """Whether it was processed is not known, so it can be tried again."""
    desk.wire.problems = [NoAnswer("the connection broke")]
    with pytest.raises(TemporarilyUnavailable):
        await revocation.revoke(desk.provider, held(desk))


async def test_a_refresh_token_goes_to_nobody_else(desk: Desk) -> None:
    """One that belongs to another client or endpoint is not sent, nor where no endpoint is known."""
    for change in ({"client_id": "other"}, {"endpoint": "https://other.example"}, {"refresh": None}):
        with pytest.raises(UsageError):
            await revocation.revoke(desk.provider, msgspec.structs.replace(held(desk), **change))
    desk.with_profile(msgspec.structs.replace(PROFILE, revocation_url=""))
    with pytest.raises(UsageError, match="name it as `revocation_url`"):
        await revocation.revoke(desk.provider, held(desk))
    assert desk.wire.sent == []
