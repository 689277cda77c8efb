"""Small charts, as coordinates for inline SVG: what is left of a lifetime, and the last turns of a record."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from sidecar.console.words import moment, span
from sidecar.tokens import HISTORY_LENGTH, REFRESH, OutcomeClass

if TYPE_CHECKING:
    from sidecar.tokens import Turn

STEP = 8
"""Width of one turn's place in the chart."""
BAR = 5
RISE = 30
"""Height above the line for the longest of the successes."""
FALL = 14
"""Depth below the line for the worst of the failures."""
LOWEST = 3

KINDS = {
    OutcomeClass.SUCCESS: "ok",
    OutcomeClass.TRANSIENT: "warn",
    OutcomeClass.IN_DOUBT: "warn",
    OutcomeClass.MISCONFIGURED: "bad",
    OutcomeClass.SUSPECT: "bad",
    OutcomeClass.DEAD: "bad",
}
"""What a turn looks like. The direction says it as well as the colour: successes rise, failures hang."""

NAMES = {
    OutcomeClass.SUCCESS: "success",
    OutcomeClass.TRANSIENT: "passing failure",
    OutcomeClass.IN_DOUBT: "unknown outcome",
    OutcomeClass.MISCONFIGURED: "misconfigured",
    OutcomeClass.SUSPECT: "suspect",
    OutcomeClass.DEAD: "dead",
}

_DEPTH = {"warn": FALL // 2, "bad": FALL}


class Meter(msgspec.Struct, frozen=True):
    """How much of a lifetime is left."""

    left: float
    """Of 100."""
    kind: str
    """ok | warn | bad."""
    mark: float | None = None
    """Where a reader's minimum is, of 100."""


OVER = Meter(0.0, "bad")
"""Nothing is left."""


class Bar(msgspec.Struct, frozen=True):
    """One turn."""

    x: int
    y: int
    height: int
    kind: str
    title: str


class Chart(msgspec.Struct, frozen=True):
    """The last turns of a record, oldest first; all places are there, taken or not."""

    bars: tuple[Bar, ...]
    text: str
    """The same in words."""
    longest: str
    """What the full height stands for; empty without a success."""
    width: int = HISTORY_LENGTH * STEP
    line: int = RISE
    height: int = RISE + FALL + 2


def meter(left: float, life: float, *, floor: float = 0.0) -> Meter:
    """Draw `left` of `life` seconds; below `floor` it is a warning, and at nothing it is bad."""
    share = 100 * min(1.0, max(0.0, left / life)) if life > 0 else 0.0
    kind = "bad" if left <= 0 else "warn" if left < floor else "ok"
    mark = round(100 * floor / life, 1) if 0 < floor < life else None
    return Meter(round(share, 1), kind, mark)


def chart(history: tuple[Turn, ...], now: float) -> Chart:
    """Draw the turns of a record."""
    turns = tuple(turn for turn in history if turn.what == REFRESH)[-HISTORY_LENGTH:]
    longest = max((turn.duration for turn in turns if turn.outcome is OutcomeClass.SUCCESS), default=0.0)
    first = HISTORY_LENGTH - len(turns)
    bars = tuple(_bar(turn, first + index, longest, now) for index, turn in enumerate(turns))
    return Chart(bars, _text(turns, now), span(longest) if longest else "")


def _bar(turn: Turn, place: int, longest: float, now: float) -> Bar:
    kind, x = KINDS[turn.outcome], place * STEP + (STEP - BAR) // 2
    several = f", {turn.times} times" if turn.times > 1 else ""
    title = f"{moment(turn.at, now).words}: {NAMES[turn.outcome]}{several}, {span(turn.duration)}"
    if kind != "ok":
        return Bar(x, RISE + 2, _DEPTH[kind], kind, title)
    # The square root keeps a quick answer visible beside a slow one.
    height = LOWEST + round((RISE - LOWEST) * math.sqrt(turn.duration / longest)) if longest else LOWEST
    return Bar(x, RISE - height, height, kind, title)


def _text(turns: tuple[Turn, ...], now: float) -> str:
    if not turns:
        return "No turn yet."
    counted: Counter[OutcomeClass] = Counter()
    for turn in turns:
        counted[turn.outcome] += turn.times
    counts = ", ".join(f"{counted[outcome]} {NAMES[outcome]}" for outcome in OutcomeClass if counted[outcome])
    last = turns[-1]
    which = "The only turn" if counted.total() == 1 else f"The last {counted.total()} turns"
    return f"{which}: {counts}. Newest: {NAMES[last.outcome]}, {moment(last.at, now).words}."
