"""Times and turns, as people read them."""

from __future__ import annotations

import pytest

from sidecar.console.charts import RISE, STEP, chart, meter
from sidecar.console.words import moment, span
from sidecar.tokens import HISTORY_LENGTH, SEED, OutcomeClass, Turn
from tests.console.gallery import NOW


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (0.25, "0.25 s"),
        (59.9, "59 s"),
        (61, "1 min 1 s"),
        (300, "5 min"),
        (599, "9 min"),
        (3600, "1 h"),
        (12345, "3 h 25 min"),
        (86399, "23 h"),
        (86400, "1 day"),
        (2 * 86400 + 7200, "2 days 2 h"),
        (400 * 86400, "400 days"),
    ],
)
def test_a_duration_is_written_in_two_units_at_most(seconds: float, words: str) -> None:
    """The second one only where it still matters."""
    assert span(seconds) == words


def test_a_moment_is_told_from_now_and_exactly() -> None:
    """Past, present and future read differently, and the exact time is UTC in both its forms."""
    assert moment(NOW + 0.4, NOW).words == "now"
    assert moment(NOW - 90, NOW).words == "1 min 30 s ago"
    later = moment(NOW + 3600, NOW)
    assert (later.words, later.exact, later.iso) == (
        "in 1 h",
        "2026-11-21 05:16:07 UTC",
        "2026-11-21T05:16:07Z",
    )


def test_a_meter_shows_how_much_is_left() -> None:
    """It never leaves its track, warns below the reader's minimum, and marks where that is."""
    assert (meter(900, 3600).left, meter(900, 3600).kind) == (25.0, "ok")
    assert (meter(300, 3600, floor=600).kind, meter(300, 3600, floor=600).mark) == ("warn", 16.7)
    assert (meter(-5, 3600).left, meter(-5, 3600).kind) == (0.0, "bad")
    assert meter(9000, 3600).left == 100.0
    assert meter(10, 0).left == 0.0


def test_the_chart_lets_successes_rise_and_failures_hang() -> None:
    """The newest turn is at the right end, the longest success has the full height, and words say the same."""
    history = (
        Turn(NOW - 7200, OutcomeClass.SUCCESS, "", 1, 0.1),
        Turn(NOW - 3600, OutcomeClass.SUCCESS, "", 2, 0.4),
        Turn(NOW - 600, OutcomeClass.TRANSIENT, "", 2, 0.2),
        Turn(NOW - 60, OutcomeClass.DEAD, "", 2, 0.2),
    )
    drawn = chart(history, NOW)
    quick, slow, passing, death = drawn.bars
    assert quick.x < slow.x < passing.x < death.x < HISTORY_LENGTH * STEP == drawn.width
    assert slow.height == RISE > quick.height > 0
    assert quick.y + quick.height == slow.y + slow.height == drawn.line < passing.y
    assert passing.height < death.height
    assert death.y + death.height <= drawn.height
    assert drawn.text == ("The last 4 turns: 2 success, 1 passing failure, 1 dead. Newest: dead, 1 min ago.")
    assert chart((), NOW).text == "No turn yet."


def test_the_chart_counts_what_an_entry_stands_for() -> None:
    """Entries of the history that became one count as many as they were; what was no call is not drawn."""
    history = (
        Turn(NOW - 9000, OutcomeClass.SUCCESS, "from command", 0, 0.0, what=SEED),
        Turn(NOW - 7200, OutcomeClass.SUCCESS, "", 12, 0.1, times=12, since=NOW - 90000),
        Turn(NOW - 600, OutcomeClass.TRANSIENT, "", 12, 0.2),
    )
    drawn = chart(history, NOW)
    assert len(drawn.bars) == 2
    assert "success, 12 times" in drawn.bars[0].title
    assert (
        drawn.text == "The last 13 turns: 12 success, 1 passing failure. Newest: passing failure, 10 min ago."
    )
