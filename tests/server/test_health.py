from __future__ import annotations

from typing import Any

import pytest

from sidecar.server.health import livez, readyz, readyz_token, startupz
from sidecar.standing import remedy
from sidecar.tokens import GrantState
from tests.server.conftest import NOW, a_view, an_output

DEAD: dict[str, Any] = {"grant_state": GrantState.DEAD, "reason": "invalid_grant", "dead_since": NOW}


@pytest.mark.parametrize(
    ("changes", "after", "uptime", "ok"),
    [
        # A new death: 60 s from the verdict on.
        ({}, 60, 5000, True),
        ({}, 61, 5000, False),
        # Found dead at start: 15 minutes from the process's start on, however old the verdict is.
        ({"found_dead": True, "dead_since": NOW - 86400}, 0, 900, True),
        ({"found_dead": True, "dead_since": NOW - 86400}, 0, 901, False),
        # A new death counts from the process's start when that is later: the wall clock jumped.
        ({}, 3600, 30, True),
        # Another replica's clock is ahead of ours.
        ({"dead_since": NOW + 100}, 150, 5000, True),
        ({"dead_since": NOW + 100}, 161, 5000, False),
        # No time of death is known: it counts from the start.
        ({"dead_since": None}, 0, 61, False),
        # A configured grace replaces both.
        ({"dead_grace": 5.0}, 5, 5000, True),
        ({"dead_grace": 5.0}, 6, 5000, False),
        ({"dead_grace": 5.0, "found_dead": True, "dead_since": NOW - 86400}, 0, 6, False),
        ({"dead_grace": 0.0}, 1, 5000, False),
        # Only required tokens that ask for it.
        ({"required": False}, 9999, 99999, True),
        ({"on_dead": "unready"}, 9999, 99999, True),
        ({"on_dead": "report"}, 9999, 99999, True),
    ],
)
def test_a_dead_grant_fails_liveness_after_its_grace(
    changes: dict[str, Any], after: float, uptime: float, *, ok: bool
) -> None:
    """The grace counts from the later of verdict and process start."""
    view = a_view(**(DEAD | changes))

    assert livez([view], now=NOW + after, uptime=uptime).ok is ok


@pytest.mark.parametrize("state", [state for state in GrantState if state is not GrantState.DEAD])
def test_no_other_state_of_a_grant_fails_liveness(state: GrantState) -> None:
    """Trouble with provider, network or store is cured by no restart."""
    view = a_view(grant_state=state, dead_since=NOW - 99999, fingerprint="", outputs=())

    assert livez([view], now=NOW, uptime=99999).ok


def test_a_worker_that_hangs_fails_liveness_by_name() -> None:
    """Whoever restarts the container reads which worker it was."""
    verdict = livez([a_view()], stale=["scheduler"], ages={"scheduler": 130.0}, now=NOW, uptime=200)

    assert verdict.reasons == ("worker scheduler: no heartbeat for 130 s; it hangs, restart the daemon",)


def test_the_reason_names_token_cause_and_remedy_on_one_line() -> None:
    """A probe's text is all that `kubectl describe` shows of it."""
    view = a_view(**DEAD, remedy="run: token-sidecar seed gmail --file PATH")
    verdict = livez([view], now=NOW + 90, uptime=5000)

    (reason,) = verdict.reasons
    assert reason == (
        "gmail: dead for 90 s, longer than its grace of 60 s; the grant is dead (invalid_grant); "
        "run: token-sidecar seed gmail --file PATH"
    )


@pytest.mark.parametrize(
    ("changes", "at", "problem"),
    [
        ({}, NOW, None),
        ({}, NOW + 1799, None),
        ({}, NOW + 1800, "expired 0 s ago"),
        # A failing refresh doesn't matter while the token works.
        ({"grant_state": GrantState.RETRYING}, NOW, None),
        (DEAD, NOW, None),
        (DEAD, NOW + 1800, "expired"),
        (DEAD | {"on_dead": "unready"}, NOW + 1800, "expired"),
        (DEAD | {"on_dead": "report"}, NOW + 1800, None),
        ({"required": False}, NOW + 1800, None),
        # The outputs count, not what we hold ourselves.
        ({"outputs": (an_output(fingerprint=None, problem="it is empty"),)}, NOW, "(it is empty)"),
        ({"outputs": (an_output(fingerprint=None),)}, NOW, "holds no token"),
        ({"outputs": (an_output(fingerprint=None, required=False), an_output())}, NOW, None),
        ({"outputs": (an_output(expires_at=NOW - 5),)}, NOW, "expired 5 s ago"),
        ({"outputs": (an_output(expires_at=None, never_expires=True),)}, NOW + 9e9, None),
        # Formats that carry no expiry are judged by our own record, as far as it's our token.
        ({"outputs": (an_output(expires_at=None),)}, NOW, None),
        ({"outputs": (an_output(expires_at=None),)}, NOW + 1800, "expired"),
        ({"outputs": (an_output(expires_at=None, fingerprint="b" * 12),)}, NOW, "doesn't know"),
        # Without a required output it's the token itself.
        ({"outputs": ()}, NOW, None),
        ({"outputs": ()}, NOW + 1800, "the access token expired"),
        ({"outputs": (), "fingerprint": ""}, NOW, "no access token yet"),
        ({"outputs": (), "expires_at": None, "never_expires": True}, NOW + 9e9, None),
    ],
)
def test_readiness_is_a_token_that_readers_can_use(
    changes: dict[str, Any], at: float, problem: str | None
) -> None:
    """Ready means: every required output of every required token holds an unexpired token."""
    verdict = readyz([a_view(**changes)], now=at)

    assert verdict.ok is (problem is None)
    assert problem is None or problem in verdict.reasons[0]


def test_every_output_that_is_wrong_has_its_own_reason() -> None:
    """One look tells the whole story."""
    bad = an_output(fingerprint=None)
    other = an_output(output="/run/tokens/second.json", expires_at=NOW - 1)

    assert len(readyz([a_view(outputs=(bad, other))], now=NOW).reasons) == 2


def test_one_token_is_judged_even_if_nothing_requires_it() -> None:
    """Asked for by name, a token's own state counts, whatever the settings make of it."""
    view = a_view(**(DEAD | {"on_dead": "report", "required": False}))

    found = readyz_token([view], "gmail", now=NOW + 1800)

    assert found is not None
    assert not found.ok
    assert readyz_token([view], "nobody", now=NOW) is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        # An earlier generation of the same lineage does: it was published by a previous run.
        ({"outputs": (an_output(fingerprint="b" * 12),)}, None),
        ({"outputs": (an_output(fingerprint="b" * 12, lineage="l0"),)}, "another lineage"),
        ({"outputs": (an_output(fingerprint="b" * 12, lineage=None),)}, "another lineage"),
        # The index was lost, but it's the very token that the record holds.
        ({"outputs": (an_output(lineage=None),)}, None),
        ({"outputs": (an_output(expires_at=NOW - 1),)}, "expired"),
        ({"outputs": (an_output(fingerprint=None),)}, "holds no token"),
        (DEAD, None),
        ({"required": False, "outputs": (an_output(fingerprint=None),)}, None),
    ],
)
def test_startup_wants_a_token_of_the_own_lineage(changes: dict[str, Any], problem: str | None) -> None:
    """What an image, or another deployment, left in the file is no start."""
    verdict = startupz([a_view(**changes)], now=NOW)

    assert verdict.ok is (problem is None)
    assert problem is None or problem in verdict.reasons[0]


def test_an_unseeded_token_prints_the_command_that_seeds_it() -> None:
    """Who looks at a pod that doesn't start finds what to type."""
    view = a_view(
        grant_state=GrantState.UNSEEDED,
        fingerprint="",
        lineage="",
        remedy=remedy("gmail", GrantState.UNSEEDED),
        outputs=(an_output(fingerprint=None),),
    )

    assert "token-sidecar seed gmail --file FILE" in startupz([view], now=NOW).reasons[0]


def test_a_reason_stays_one_line() -> None:
    """A reason that came with line breaks would look like two."""
    view = a_view(**(DEAD | {"reason": "first\nsecond", "outputs": (an_output(fingerprint=None),)}))

    assert "\n" not in readyz([view], now=NOW).reasons[0]
