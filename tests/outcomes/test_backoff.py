from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.outcomes import (
    GARBLED,
    MISCONFIGURED,
    SHORT_LIVED,
    THROTTLED,
    UNANSWERED,
    UNREACHED,
    UNTRUSTED,
    Delays,
    Outcome,
    backoff,
)
from sidecar.tokens import OutcomeClass

NOW = 1_800_000_000.0
RANGES = [UNREACHED, UNANSWERED, GARBLED, THROTTLED, UNTRUSTED, SHORT_LIVED, MISCONFIGURED]


def failed(delays: Delays = THROTTLED, **more: object) -> Outcome:
    """Make an outcome with this range."""
    return Outcome(outcome=OutcomeClass.TRANSIENT, delays=delays, **more)  # type: ignore[arg-type]


def wait(outcome: Outcome, failures: int = 1, left: float | None = None, jitter: float = 1.0) -> float:
    """Ask for the delay, with the highest jitter."""
    return backoff(outcome, failures, now=NOW, expires_at=None if left is None else NOW + left, jitter=jitter)


def test_the_ceiling_doubles_up_to_the_ranges_end() -> None:
    """With the highest jitter the ceiling itself shows."""
    assert [wait(failed(), failures) for failures in range(1, 8)] == [30, 60, 120, 240, 480, 900, 900]


@pytest.mark.parametrize("left", [600, -600])
def test_it_tightens_around_the_expiry(left: float) -> None:
    """Not more than a quarter of the time to the expiry, or since."""
    assert wait(failed(), 9, left) == 150


@pytest.mark.parametrize("left", [10, 0, -1])
def test_it_never_tightens_below_the_ranges_start(left: float) -> None:
    """A provider that throttles is not hammered because a token is about to expire."""
    assert wait(failed(), 9, left) == 30


def test_retry_after_is_obeyed_and_never_shortened() -> None:
    """It takes the place of range and expiry alike; jitter only adds."""
    assert wait(failed(retry_after=700.0), 1, 4.0, jitter=0.0) == 700
    assert 700 < wait(failed(retry_after=700.0), 9, 4.0) < 771


def test_a_retry_after_of_nothing_still_waits() -> None:
    """Zero would be a loop."""
    assert wait(failed(retry_after=0.0), jitter=0.0) == 15


def test_the_profiles_minimum_is_kept() -> None:
    """Zoho wants ten minutes."""
    assert wait(failed(min_delay=600.0), jitter=0.0) == 600
    assert wait(failed(min_delay=600.0, retry_after=5.0), jitter=0.0) == 600


def test_an_unknown_error_that_stays_is_put_into_quarantine() -> None:
    """Ten times over a day, and it is asked about four times a day."""
    unknown = failed(unknown_error=True)

    def after(failures: int, since: float) -> float:
        return backoff(unknown, failures, now=NOW, expires_at=None, jitter=1.0, since=NOW - since)

    assert after(10, 86400) == 6 * 3600
    assert after(9, 86400) == 900
    assert after(10, 86000) == 900


@given(
    st.sampled_from(RANGES),
    st.integers(0, 10**6),
    st.one_of(st.none(), st.floats(-1e9, 1e9), st.just(float("inf"))),
    st.floats(0, 1, exclude_max=True),
)
def test_every_delay_is_within_its_range(
    delays: Delays, failures: int, left: float | None, jitter: float
) -> None:
    """Never below half of the start, never above the end."""
    assert delays.first / 2 <= wait(failed(delays), failures, left, jitter) <= delays.last
