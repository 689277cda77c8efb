"""A fleet on one Postgres and one rotating grant: killed, stopped and restarted, it burns no refresh token."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from tests import postgres
from tests.e2e.fleet import Fleet, Plan, figures, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import MakeDaemon, MakeSimulator

SMALL = Plan(
    daemons=5,
    seconds=60,
    life=20,
    refresh_at=0.5,
    min_validity=2,
    lease=3,
    request_timeout=1,
    pause=3,
    tormentors=2,
    outages=1,
)
"""Half of a token's life is left for the troubles of a busy machine."""
LARGE = Plan(
    daemons=25,
    seconds=600,
    life=60,
    refresh_at=0.75,
    min_validity=10,
    lease=4,
    request_timeout=1,
    pause=4,
    tormentors=3,
    outages=3,
)


@pytest.mark.timeout(400)
def test_a_fleet_burns_no_refresh_token(
    make_daemon: MakeDaemon, make_simulator: MakeSimulator, record_property: Callable[[str, object], None]
) -> None:
    """Five daemons, tormented for a minute: one refresh per window, no reuse, no reader below the promise."""
    torment(SMALL, make_daemon, make_simulator, record_property)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_large_fleet_burns_no_refresh_token(
    make_daemon: MakeDaemon, make_simulator: MakeSimulator, record_property: Callable[[str, object], None]
) -> None:
    """The same with twenty-five daemons, for ten minutes, or for as long as the soak run if that is shorter."""
    minutes = min(10.0, float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES", "10")))
    torment(LARGE._replace(seconds=60 * minutes), make_daemon, make_simulator, record_property)


def torment(
    plan: Plan,
    make_daemon: MakeDaemon,
    make_simulator: MakeSimulator,
    record_property: Callable[[str, object], None],
) -> None:
    """Run a fleet by a plan, and judge it. The moments are nobody's choice: a run can't be repeated anyway."""
    with postgres.running() as server:
        rng = random.Random(time.time_ns())  # noqa: S311 - moments, no secrets
        fleet = Fleet(plan, make_daemon, make_simulator(access_ttl=plan.life), server, rng)
        fleet.run()
    record_property("figures", figures(fleet))
    judge(fleet)


def judge(fleet: Fleet) -> None:
    """Hold it to its word."""
    came, seen, tally = outcome(fleet.provider), fleet.readers.seen, fleet.tally
    # What was used again, or brought nothing, or was called in doubt: each had been sent by a daemon that was killed.
    assert came.replays <= tally.sent
    assert came.unanswered <= tally.sent
    assert seen.doubted <= tally.sent
    # Nobody refreshes what somebody has refreshed; a second is for the way from the provider's clock to the daemon's.
    assert min(came.intervals, default=fleet.plan.life) > fleet.plan.soonest - 1
    assert seen.violations == []
    # Nothing that was gained was lost: the record has had every answer of its grant.
    assert fleet.record is not None
    assert [family.refreshes for family in fleet.living()] == [fleet.record.generation]
    assert tally.strikes["outages"] == fleet.plan.outages
    assert min(tally.strikes[kind] for kind in ("kills", "stops", "restarts")) > 0
