"""A token whose endpoint its issuer names: bound when it is first sent, and moved by no document."""

from __future__ import annotations

import pytest

from sidecar.profile import GrantType, Profile
from sidecar.rotation import begun, misdirected, rebound
from sidecar.tokens import GrantState, Record, RefreshToken
from tests.engine.conftest import Daemon, House, SimulatedGrant

pytestmark = pytest.mark.anyio

ISSUER = "https://sso.example"
HOME, ELSEWHERE = "https://provider.example", "https://elsewhere.example"
CREDENTIALS = Profile(grant=GrantType.CLIENT_CREDENTIALS)


def discovered(daemon: Daemon, endpoint: str, issuer: str = ISSUER) -> SimulatedGrant:
    """Let an issuer have named this endpoint; empty: it did not answer yet, and so nothing can be sent."""
    grant = daemon.grant
    grant.endpoint, grant.issuer, grant.unreachable = endpoint, issuer, 0 if endpoint else 1_000_000
    return grant


async def test_a_seed_waits_for_its_endpoint(house: House) -> None:
    """It is taken, and bound to the issuer until that has named an endpoint; a human is not called for."""
    daemon = house.daemon(seed=house.provider.new_grant())
    discovered(daemon, "")
    await daemon.run(30)
    assert daemon.state() is GrantState.RETRYING
    record = await house.store.record()
    assert (record.endpoint, record.issuer, record.generation) == ("", ISSUER, 0)
    discovered(daemon, HOME)
    await daemon.run(120)
    record = await house.store.record()
    assert (record.endpoint, record.issuer, record.generation) == (HOME, ISSUER, 1)
    assert daemon.state() is GrantState.OK


async def test_a_seed_goes_to_no_other_issuer_than_it_was_given_for(house: House) -> None:
    """Though none of them had named an endpoint when it was given."""
    daemon = house.daemon(seed=house.provider.new_grant())
    discovered(daemon, "")
    await daemon.run(1)
    grant = discovered(daemon, HOME, "https://other.example")
    called = len(grant.calls)
    await daemon.run(3600)
    assert len(grant.calls) == called
    assert daemon.state() is GrantState.MISCONFIGURED
    assert (
        f"'sim-client' at {ISSUER}, but the configuration with the issuer https://other" in daemon.view.reason
    )


async def test_a_document_moves_no_refresh_token(house: House) -> None:
    """Both places are named, with the ways out; the old one, when the issuer names it again, goes on."""
    daemon = house.daemon(seed=house.provider.new_grant())
    grant = discovered(daemon, HOME)
    await daemon.run(10)
    assert len(grant.calls) == 1
    discovered(daemon, ELSEWHERE)
    await daemon.run(7200)
    assert len(grant.calls) == 1
    assert daemon.state() is GrantState.MISCONFIGURED
    assert daemon.view.reason == (
        f"the refresh token belongs to client 'sim-client' at {HOME}, but the configuration with the issuer {ISSUER} "
        f"names 'sim-client' at {ELSEWHERE}, where it is not sent; correct the configuration, or consent again: "
        "token-sidecar login gmail, or give a new refresh token: token-sidecar seed gmail --file FILE; if both are "
        "yours, stop the daemon and run: token-sidecar store rebind gmail"
    )
    discovered(daemon, HOME)
    await daemon.run(120)
    assert (len(grant.calls), daemon.state()) == (2, GrantState.OK)


async def test_an_issuer_that_is_away_moves_nothing(house: House) -> None:
    """A daemon that lost its `state_dir` waits for its issuer, and does not complain of the configuration."""
    first = house.daemon(seed=house.provider.new_grant())
    discovered(first, HOME)
    await first.run(10)
    second = house.daemon()
    discovered(second, "")
    await second.run(3600)
    assert second.state() is GrantState.RETRYING
    assert (await house.store.record()).endpoint == HOME


@pytest.mark.parametrize("issuer", [ISSUER, "https://other.example", ""], ids=["the same", "another", "none"])
async def test_a_document_moves_no_client_secret(house: House, issuer: str) -> None:
    """While whoever writes another issuer, or an endpoint, into the configuration means it."""
    daemon = house.daemon(profile=CREDENTIALS)
    grant = discovered(daemon, HOME)
    await daemon.run(10)
    discovered(daemon, ELSEWHERE, issuer)
    await daemon.run(3600)
    moved = issuer != ISSUER
    assert (len(grant.calls) > 1) is moved
    assert daemon.state() is (GrantState.OK if moved else GrantState.MISCONFIGURED)
    assert (await house.store.record()).endpoint == (ELSEWHERE if moved else HOME)
    if not moved:
        assert (
            f"the token was got at {HOME}, but the configuration with the issuer {ISSUER} names {ELSEWHERE}"
            in (daemon.view.reason)
        )
        assert "store rebind gmail" in daemon.view.reason


def test_a_human_moves_both() -> None:
    """After `store rebind` the record agrees with what is configured."""
    for record in (
        begun("app", HOME, ISSUER),
        Record(lineage="l", refresh=RefreshToken("r", 0.0), client_id="app", endpoint=HOME, issuer=ISSUER),
    ):
        there = {"client_id": "app", "endpoint": ELSEWHERE, "issuer": ISSUER}
        assert misdirected(record, **there)
        assert misdirected(rebound(record, **there), **there) is None
