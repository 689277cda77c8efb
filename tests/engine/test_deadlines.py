"""Until when a human has to consent again, what that follows from, and what is done so that nobody has to."""

from __future__ import annotations

from itertools import count, pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from sidecar.profile import GrantType, InDoubt, Profile, Rotation
from sidecar.schedule import Deadline, deadline, last_used
from sidecar.tokens import AccessToken, DeadlineRule, GrantState, Record, RefreshToken
from tests.engine.conftest import EPOCH, House
from tests.engine.scripted import Scripted

HOUR, DAY = 3600.0, 86400.0
NOW = 1_800_000_000.0
PLAIN = Profile(rotation=Rotation.NEVER, in_doubt=InDoubt.REPLAY_OK)


def record(**refresh: Any) -> Record:
    """A grant that was consented to a day ago and refreshed an hour ago."""
    access = AccessToken("sim-at-0123456789abcdef", NOW - HOUR, NOW + HOUR, 2 * HOUR)
    token = RefreshToken("sim-rt-0123456789abcdef", issued_at=NOW - DAY, consented_at=NOW - DAY)
    return Record("l", generation=1, access=access, refresh=replace(token, **refresh))


# What a deadline follows from.


@pytest.mark.parametrize(
    ("held", "profile", "ttl", "expected"),
    [
        (record(), PLAIN, None, None),
        (record(expires_at=NOW + 5), PLAIN, None, Deadline(NOW + 5, DeadlineRule.TOLD, DAY + 5)),
        (record(), PLAIN, 7 * DAY, Deadline(NOW + 6 * DAY, DeadlineRule.CONFIGURED, 7 * DAY)),
        (
            record(),
            replace(PLAIN, refresh_ttl=365 * DAY),
            None,
            Deadline(NOW + 364 * DAY, DeadlineRule.PROFILE, 365 * DAY),
        ),
        (
            record(),
            replace(PLAIN, refresh_ttl=DAY),
            7 * DAY,
            Deadline(NOW + 6 * DAY, DeadlineRule.CONFIGURED, 7 * DAY),
        ),
        (
            record(),
            replace(PLAIN, refresh_idle_ttl=DAY),
            None,
            Deadline(NOW + DAY - HOUR, DeadlineRule.IDLE, DAY),
        ),
        # The earliest counts: Intuit's five years from the consent, and a hundred days that answers name.
        (
            record(expires_at=NOW + 100 * DAY),
            replace(PLAIN, refresh_ttl=1826 * DAY, refresh_idle_ttl=101 * DAY),
            None,
            Deadline(NOW + 100 * DAY, DeadlineRule.TOLD, 101 * DAY),
        ),
        (
            record(consented_at=NOW - 1800 * DAY, expires_at=NOW + 100 * DAY),
            replace(PLAIN, refresh_ttl=1826 * DAY),
            None,
            Deadline(NOW + 26 * DAY, DeadlineRule.PROFILE, 1826 * DAY),
        ),
        # Whose consent nobody remembers, nothing counts from it.
        (record(consented_at=None), replace(PLAIN, refresh_ttl=DAY), DAY, None),
        (replace(record(), refresh=None), replace(PLAIN, refresh_ttl=DAY), DAY, None),
        (None, PLAIN, DAY, None),
    ],
    ids=count(),
)
def test_the_earliest_of_all_ends_counts(
    held: Record | None, profile: Profile, ttl: float | None, expected: Deadline | None
) -> None:
    """Named by an answer, counted from the consent, or from the last use."""
    assert deadline(held, profile, ttl) == expected


def test_the_same_token_again_is_a_use() -> None:
    """The refresh token was used, though the access token didn't change."""
    held = record()
    assert held.access is not None
    again = replace(held, access=replace(held.access, repeated_at=NOW))
    assert (last_used(held), last_used(again)) == (NOW - HOUR, NOW)


# Fixed ends.


async def test_rotating_extends_no_fixed_end(house: House) -> None:
    """A day of refreshes later the deadline is where it was, and the view says what it follows from."""
    profile = Profile(rotation=Rotation.ALWAYS, refresh_ttl=180 * DAY)
    daemon = house.daemon(profile=profile, seed=house.provider.new_grant())
    await daemon.run(DAY)
    assert daemon.view.generation > 20
    assert daemon.view.refresh_expires_at == EPOCH + 180 * DAY
    assert daemon.view.refresh_expiry_rule is DeadlineRule.PROFILE


async def test_a_ttl_that_is_configured_later_counts_from_the_consent(house: House) -> None:
    """Who learns on the third day of Google's seven adds a line, and is told the truth."""
    daemon = house.daemon(profile=PLAIN, seed=house.provider.new_grant())
    await daemon.run(HOUR)
    daemon.renewer.reconfigure(replace(daemon.renewer.setup, refresh_token_ttl=7 * DAY))
    await daemon.run(120)
    assert daemon.view.refresh_expires_at == EPOCH + 7 * DAY
    assert daemon.view.refresh_expiry_rule is DeadlineRule.CONFIGURED


@pytest.mark.parametrize(("ttl", "expected"), [(7 * DAY, EPOCH + 7 * DAY), (None, None)])
async def test_outputs_are_handed_the_end_that_no_use_puts_off(
    house: House, ttl: float | None, expected: float | None
) -> None:
    """An application that wants to know reads the same deadline, unless it is an idle limit, which moves."""
    profile = replace(PLAIN, refresh_idle_ttl=(10 if ttl else 1) * DAY)
    daemon = house.daemon(profile=profile, seed=house.provider.new_grant(), refresh_token_ttl=ttl)
    await daemon.run(60)
    refresh = daemon.shelf.publications[-1].refresh
    assert refresh is not None
    assert refresh.expires_at == expected


async def test_a_life_that_is_capped_by_the_consents_end_is_no_loop(house: House) -> None:
    """LinkedIn's access tokens don't outlive the refresh token: the last ones are short, few, and then it's over."""
    life, end = 18 * HOUR, EPOCH + 30 * HOUR

    def script(now: float, sent: RefreshToken | None) -> dict[str, Any] | tuple[int, bytes]:
        assert sent is not None
        if now >= end:
            return 400, b'{"error": "invalid_grant"}'
        left = int(end - now)
        return {
            "access_token": f"sim-at-{now:024.6f}",
            "expires_in": min(left, int(life)),
            "refresh_token": sent.value,
            "refresh_token_expires_in": left,
        }

    grant = Scripted(house.clock, script)
    daemon = house.daemon(
        profile=replace(PLAIN, refresh_ttl=30 * HOUR), seed="sim-rt-linkedin0123456", grant=grant
    )
    await daemon.run(31 * HOUR)
    assert daemon.state() is GrantState.DEAD
    assert len([at for at in grant.calls if at < end]) <= 30
    assert all(later - earlier >= 1 for earlier, later in pairwise(grant.calls))
    assert daemon.shelf.publications[-1].access.expires_at == pytest.approx(end, abs=60)


# Idle limits.


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        ({"expires_in": 90 * DAY}, False),
        ({"expires_in": 0}, False),
        ({"expires_in": 90 * DAY}, True),
        ({"expires_in": 0}, True),
    ],
    ids=["long", "endless", "long and repeated", "endless and repeated"],
)
async def test_a_grant_is_used_before_its_idle_limit(
    house: House,
    answer: dict[str, Any],
    repeats: bool,  # noqa: FBT001
) -> None:
    """However long the access token lives, and whether or not it is a new one: at half of the idle life, no more."""
    idle, numbers = 4 * HOUR, count(1)

    def script(*_: object) -> dict[str, Any]:
        return {"access_token": f"sim-at-{0 if repeats else next(numbers):020}", **answer}

    grant = Scripted(house.clock, script)
    profile = replace(PLAIN, refresh_idle_ttl=idle, zero_means_never=True)
    daemon = house.daemon(profile=profile, seed="sim-rt-idle0123456789ab", grant=grant)
    await daemon.run(12 * HOUR)
    gaps = [later - earlier for earlier, later in pairwise(grant.calls)]
    assert len(gaps) >= 5
    assert all(idle / 2 <= gap < idle * 0.6 for gap in gaps)
    assert daemon.view.refresh_expires_at == pytest.approx(grant.calls[-1] + idle)
    assert daemon.view.refresh_expiry_rule is DeadlineRule.IDLE


async def test_a_refresh_token_that_ends_before_the_access_token_is_used_in_time(house: House) -> None:
    """Keycloak's session may be idle for 30 minutes while its access tokens live for an hour."""
    ends = {"at": float("inf")}

    def script(now: float, sent: RefreshToken | None) -> dict[str, Any] | tuple[int, bytes]:
        if sent is None or now >= ends["at"]:
            return 400, b'{"error": "invalid_grant"}'
        ends["at"] = now + 1800
        return {
            "access_token": f"sim-at-{now:024.6f}",
            "expires_in": 3600,
            "refresh_token": f"sim-rt-{now:024.6f}",
            "refresh_expires_in": 1800,
        }

    grant = Scripted(house.clock, script)
    daemon = house.daemon(
        profile=Profile(rotation=Rotation.ALWAYS), seed="sim-rt-keycloak0123456", grant=grant
    )
    await daemon.run(6 * HOUR)
    assert daemon.state() is GrantState.OK
    assert 20 <= len(grant.calls) <= 26
    assert daemon.view.refresh_expiry_rule is DeadlineRule.TOLD


@pytest.mark.parametrize("rotates", [True, False])
@pytest.mark.parametrize(("moves", "ends_after"), [(True, 1800), (False, DAY)])
async def test_a_named_end_has_its_whole_life_whoever_keeps_the_token(
    house: House, *, moves: bool, ends_after: float, rotates: bool
) -> None:
    """A day that began with the consent stays a day, and a session of half an hour stays one, new token or not."""

    def script(now: float, sent: RefreshToken | None) -> dict[str, Any]:
        assert sent is not None
        return {
            "access_token": f"sim-at-{now:024.6f}",
            "expires_in": 600,
            "refresh_token": f"sim-rt-{now:024.6f}" if rotates else sent.value,
            "refresh_expires_in": int(ends_after if moves else EPOCH + ends_after - now),
        }

    grant = Scripted(house.clock, script)
    daemon = house.daemon(
        profile=Profile(rotation=Rotation.UNKNOWN), seed="sim-rt-entra-spa0123456", grant=grant
    )
    await daemon.run(20 * HOUR)
    assert daemon.view.generation > 100
    assert daemon.view.refresh_life == pytest.approx(ends_after, abs=5)


async def test_a_named_end_that_has_passed_makes_no_loop(house: House) -> None:
    """A seed named an end, the provider goes on all the same: it is not called more often for it."""
    grant = Scripted(house.clock, lambda now, _: {"access_token": f"sim-at-{now:024.6f}", "expires_in": 3600})
    daemon = house.daemon(profile=PLAIN, seed="sim-rt-old0123456789abc", grant=grant)
    await daemon.run(60)
    stored = await house.store.record()
    assert stored.refresh is not None
    await house.store.edit(replace(stored, refresh=replace(stored.refresh, expires_at=EPOCH + HOUR)))
    await daemon.run(12 * HOUR)
    assert len([at for at in grant.calls if at > EPOCH + 2 * HOUR]) <= 16


def test_only_grants_of_refresh_tokens_have_a_deadline() -> None:
    """A client that proves itself needs nobody's consent."""
    profile = Profile(grant=GrantType.CLIENT_CREDENTIALS, refresh_idle_ttl=DAY, refresh_ttl=DAY)
    assert deadline(Record("l", access=record().access), profile, DAY) is None
