"""How fast one provider is called for the accounts of sets, by this daemon: as fast as it takes it.

A limit may be known beforehand. What isn't known is found out: calls that a provider can't take make fewer, down to one
at a time with growing pauses between; each that succeeds makes room for another one. So nobody storms a provider that
comes back after hours, and all of its room is used within seconds.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALIKE = 5
"""So many calls in a row that fail are no trouble of single accounts."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds. A provider that asks to be left alone for longer may mean one account; each is left alone for as long as its
own answer says."""


class Pace:
    """What one provider may be asked now. All instants are on the boot-time clock."""

    def __init__(
        self, random: Callable[[], float], *, rate: float | None = None, at_once: int | None = None
    ) -> None:
        """`rate`: calls a second that are known to be taken; `at_once`: calls under way; None: not known."""
        self._random = random
        self._span = max(1.0, 1 / rate) if rate else 0.0
        """Seconds in which no more calls begin than there is room for in `_begun`."""
        self._begun: deque[float] = deque(maxlen=max(1, int(rate))) if rate else deque(maxlen=0)
        self._most = at_once if at_once is not None else math.inf
        self._window = self._most
        self._under_way = self._late = 0
        self._failures = 0
        """In a row."""
        self._not_before = -math.inf

    def room(self, now: float, *, meant: int = 0) -> float:
        """Tell how many calls may begin; those of one second may begin at once.

        `meant`: those that are under way or are just about to be.
        """
        if now < self._not_before:
            return 0
        free = self._window - max(meant, self._under_way - self._late)
        room = max(0, min(free, self._most - max(meant, self._under_way)))
        if self._begun.maxlen:
            room = min(room, self._begun.maxlen - sum(at > now - self._span for at in self._begun))
        return room

    def delay(self, now: float) -> float:
        """Tell after how many seconds it is worth asking again whether there is room."""
        return max(self._not_before - now, FIRST_PAUSE * (1 + self._random()))

    @contextmanager
    def call(self, now: float) -> Iterator[Callable[[], None]]:
        """Take a place among the calls that are under way, for as long as the block lasts.

        What it yields says that the answer is late: the place is another's then, unless the provider is known to take
        no more. A few accounts that are never answered would keep all others waiting.
        """
        late = False

        def is_late() -> None:
            nonlocal late
            self._late, late = self._late + (not late), True

        self._under_way += 1
        self._begun.append(now)
        try:
            yield is_late
        finally:
            self._under_way -= 1
            self._late -= late

    def judge(self, now: float, *, refused: bool, retry_after: float | None = None) -> None:
        """Take note of what came of a call within its block.

        `refused`: the provider couldn't take it, or didn't answer. `retry_after`: seconds for which it asked to be left
        alone.
        """
        if not refused:
            self._failures = 0
            self._window = min(self._most, self._window + 1)
            return
        self._failures += 1
        # Of what was under way at once, half was too much.
        self._window = max(1, min(self._window, self._under_way) // 2)
        # Not for less, whatever was asked for: some limit each account by itself, and many of these may take turns.
        if self._failures >= ALIKE:
            pause = retry_after or FIRST_PAUSE * 2.0 ** min(self._failures - ALIKE, 10)
            pause = min(pause, LONGEST_PAUSE) * (1 + self._random() / 4)
            self._not_before = max(self._not_before, now + pause)


class Line:
    """How far the claims of a set have come. Instants are Unix seconds."""

    def __init__(self) -> None:
        """Nothing was claimed yet, and nobody has asked."""
        self.passed = -math.inf
        """What was due by then has been claimed, unless it can't be."""
