"""Takes the leases of what is due in a set, a few at a time, for as many turns as there is room for.

Several daemons that serve one set on one store divide it thereby: each takes what nobody has taken, the longest due
first, and waits for nobody. It takes no more than it can work on at once, since a lease runs from then on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from sidecar.errors import StoreError
from sidecar.inquiry import asking
from sidecar.pace import Line
from sidecar.schedule import Wake

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import anyio

    from sidecar.pace import Pace
    from sidecar.ports import Claimed, SupportsClaims
    from sidecar.setup import Surroundings

EVERY = 1.0
"""Seconds between two claims while there is less to do than could be done."""
AT_LAST = 30.0
"""Seconds without an answer of the store after which nobody waits to be claimed."""
AT_ONCE = 0.05
"""Seconds until the next while there is more."""


class Claimer:
    """Claims for one set, in turns on the scheduler's heap."""

    def __init__(
        self,
        prefix: str,
        store: SupportsClaims,
        around: Surroundings,
        hand: Callable[[Claimed, float], anyio.Event | None],
        *,
        most: int,
    ) -> None:
        """`prefix`: of the records' keys. `most`: how many turns there is room for.

        `hand` is given each record with the end of its lease (boot-time clock); it returns what is set at the end of
        its turn, or None for a record that nobody here has a use for. Whoever makes it says how long a `lease` is.
        """
        self._prefix = prefix
        self._store = store
        self._around = around
        self._hand = hand
        self._most = most
        self._busy: list[tuple[anyio.Event, float]] = []
        """What is set at the end of each turn, and when it has begun or never will (boot-time clock)."""
        self.lease = 0.0
        """Seconds."""
        self.line = Line()
        self.pace: Pace | None = None
        """Of the provider; None: nobody keeps it."""
        self._heard = around.clock.boot()

    async def turn(self, late: Callable[[], None]) -> Wake:
        """Take one turn and say when the next is due. It occupies no worker."""
        late()
        clock = self._around.clock
        # Past half of its lease a claim is not begun with, and a turn whose answer is late has given its worker back.
        self._busy = [one for one in self._busy if not one[0].is_set() and clock.boot() < one[1]]
        room = self._most - len(self._busy)
        taken = self.pace.room(clock.boot(), meant=len(self._busy)) if self.pace is not None else room
        found = await self._claimed(int(min(room, taken))) if min(room, taken) > 0 else 0
        # All that there is room for, or none before a turn ends: there may be more. Not so where the provider has none.
        more = found >= room or 0 < taken <= found
        return Wake(clock.wall() + (AT_ONCE if more else EVERY), urgency=float("-inf"))

    async def _claimed(self, room: int) -> int:
        clock = self._around.clock
        # Counted from before the statement was sent: ours end earlier than anybody else believes.
        until, began = clock.boot() + self.lease, clock.wall()
        try:
            with self._asking():
                found = await self._store.claim(
                    self._prefix, self._around.instance, most=room, lease=self.lease, now=clock.wall()
                )
            self._heard = clock.boot()
            if len(found) < room:
                self.line.passed = began
            for one in found:
                turned = self._hand(one, until)
                if turned is not None:
                    self._busy.append((turned, until - self.lease / 2))
                else:
                    await self._give_back(one)
        except StoreError:
            if clock.boot() - self._heard > AT_LAST:
                self.line.passed = math.inf
            # Each renewer has to do with the store as well, and tells of it; what was claimed is found by them.
            return 0
        return len(found)

    async def _give_back(self, one: Claimed) -> None:
        """Let go of an account that is not served here; it is due to whoever serves it."""
        record = msgspec.structs.replace(one.held.record, attempt=None)
        with self._asking():
            await self._store.write_due(one.key, record, expected=one.held.version, due=None)

    def _asking(self) -> AbstractContextManager[None]:
        return asking(self._around.store.kind, self._around.emit)
