"""A fleet on one store and one rotating grant: killed, stopped and restarted, it burns no refresh token."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import postgres
from tests.e2e.fleet import Cluster, Database, Fleet, Place, Plan, figures, outcome
from tests.e2e.kubernetes import Secrets
from tests.kube import apiserver, fake

if TYPE_CHECKING:
    from tests.e2e.conftest import MakeDaemon, MakeSimulator

KUBERNETES = ["fake Kubernetes", *(["real Kubernetes"] if apiserver.assets() else [])]

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


CALM = Plan(
    daemons=5,
    seconds=15,
    life=8,
    refresh_at=0.25,
    min_validity=2,
    lease=3,
    request_timeout=1,
    pause=1,
    tormentors=0,
    outages=0,
)
"""Nobody is struck, and a refresh is due every other second."""
Run = Callable[[Plan, str], Fleet]


@pytest.fixture
def torment(
    make_daemon: MakeDaemon,
    make_simulator: MakeSimulator,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> Run:
    """Run a fleet by a plan, and judge it. The moments are nobody's choice: a run can't be repeated anyway."""

    def run(plan: Plan, kind: str) -> Fleet:
        rng = random.Random(time.time_ns())  # noqa: S311 - moments, no secrets
        with place_of(kind, tmp_path, rng) as place:
            fleet = Fleet(plan, make_daemon, make_simulator(access_ttl=plan.life), place, rng)
            fleet.run()
        record_property("figures", figures(fleet))
        judge(fleet)
        if plan.tormentors:
            assert min(fleet.tally.strikes[strike] for strike in ("kills", "stops", "restarts")) > 0
        return fleet

    return run


@contextmanager
def place_of(kind: str, folder: Path, rng: random.Random) -> Iterator[Place]:
    """Start a store for a fleet alone."""
    if kind == "Postgres":
        with postgres.running() as server:
            yield Database(server)
        return
    with (fake if kind == "fake Kubernetes" else apiserver).running() as cluster:
        yield Cluster(Secrets(cluster, folder), rng)


@pytest.mark.timeout(400)
def test_a_fleet_burns_no_refresh_token(torment: Run) -> None:
    """Five daemons, tormented for a minute: one refresh per window, no reuse, no reader below the promise."""
    torment(SMALL, "Postgres")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KUBERNETES)
def test_a_fleet_on_kubernetes_burns_no_refresh_token(torment: Run, kind: str) -> None:
    """The same on one Secret, for half a minute, while others write to it."""
    torment(SMALL._replace(seconds=35, pause=1.5, tormentors=3), kind)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", KUBERNETES)
def test_daemons_and_others_write_to_one_secret(torment: Run, kind: str) -> None:
    """While others label it, sync it and write to it what is outdated, nothing is sent twice, late or lost."""
    fleet = torment(CALM, kind)
    came = outcome(fleet.provider)
    assert (came.replays, came.unanswered, fleet.tally.consents) == (set(), set(), 0)
    assert came.refreshes > CALM.seconds / CALM.life
    assert isinstance(fleet.place, Cluster)
    done = fleet.place.hostile.done
    assert min(done["note done"], done["label done"], done["sync done"]) > 0
    assert min(done["put_old refused"], done["patch_old refused"]) > 0


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", ["Postgres", *KUBERNETES])
def test_a_large_fleet_burns_no_refresh_token(torment: Run, kind: str) -> None:
    """The same with twenty-five daemons, for ten minutes, or for as long as the soak run if that is shorter."""
    minutes = min(10.0, float(os.environ.get("TOKEN_SIDECAR_SOAK_MINUTES", "10")))
    torment(LARGE._replace(seconds=60 * minutes), kind)


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
