"""Sees what others do to the members of a set: in its records, and in its files.

No member looks by itself. The store is asked for versions, thousands at a time, and those records alone are read that
have another one, hundreds at a time. Whoever's record has changed gets a turn, and finds it read already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anyio import Event, move_on_after
from anyio.lowlevel import checkpoint

from sidecar.errors import RecordUnreadable, StoreError
from sidecar.events import Warned
from sidecar.inquiry import asking
from sidecar.schedule import QUIET_POLL, Wake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from sidecar.ports import Held, SupportsFollowing
    from sidecar.setup import Surroundings

EVERY = 15.0
"""Seconds between two looks."""
BUSY = 20.0
"""A look that takes long is taken less often: no more than one part in so many of the time goes into it."""
AGAIN = 2.0
"""Seconds until the next where the store could not be asked."""
PAGE = 5000
"""Versions that are asked for at once: milliseconds, so that no refresh waits long for the store."""
BATCH = 250
"""Records that are read at once."""
TURNS, FEW = 30.0, 16
"""Seconds for which the turns of those are waited for, all but a few, before more are read."""


class Followed(Protocol):
    """A member of the set."""

    @property
    def name(self) -> str:
        """What its turns are asked for by."""
        ...

    @property
    def key(self) -> str:
        """Of its record."""
        ...

    def sighted(self, version: str | None, at: float) -> bool:
        """Take note of the version that the store had then or later; returns whether the record is to be read."""
        ...

    def hear(self, stored: Held | None, at: float) -> None:
        """Take the record that the store had then or later; the next turn goes by it."""
        ...

    def distrust(self) -> None:
        """Have the next turn read the record."""
        ...

    def is_seen_since(self, at: float) -> bool:
        """Tell whether the record was in sight since then."""
        ...

    def is_touched(self) -> bool:
        """Tell whether somebody else has changed what was published."""
        ...


class Follower:
    """Follows one set, in turns on the scheduler's heap."""

    def __init__(
        self,
        of: str,
        prefix: str,
        store: SupportsFollowing,
        around: Surroundings,
        members: Callable[[], Iterable[Followed]],
        wake: Callable[[str], Event | None],
    ) -> None:
        """`prefix`: of the records' keys. `wake` gives a member of this name a turn."""
        self._of = of
        self._prefix = prefix
        self._store = store
        self._around = around
        self._members = members
        self._wake = wake
        self._problem = ""
        self._patrolled = around.clock.boot()
        self._tidied = False
        self._unreadable: set[str] = set()
        """Keys of records that are there, as the present look has found, and say nothing."""
        self.tidy: Callable[[], bool] = _nothing_to_tidy
        """Removes what killed writers left beside the members' files; tells whether nothing of the kind remains."""

    async def turn(self, late: Callable[[], None]) -> Wake:
        """Take one turn and say when the next is due. It occupies no worker."""
        late()
        clock = self._around.clock
        began, problem, pause = clock.boot(), "", AGAIN
        members = {one.key: one for one in self._members()}
        if began - self._patrolled >= QUIET_POLL:
            self._patrolled = began
            await self._patrol(members)
        self._tidied = self._tidied or self.tidy()
        try:
            await self._look(members, began)
        except StoreError as error:
            problem = f"what others write is not noticed: {error}"
        else:
            pause = max(EVERY, BUSY * (clock.boot() - began))
        if problem and problem != self._problem:
            self._around.emit(Warned("store", problem, self._of))
        self._problem = problem
        return Wake(clock.wall() + pause, urgency=float("-inf"))

    async def _look(self, members: dict[str, Followed], began: float) -> None:
        moved: list[Followed] = []
        after, full = "", True
        self._unreadable.clear()
        while full:
            at = self._around.clock.boot()
            with self._asking():
                page = await self._store.versions(self._prefix, after=after, most=PAGE)
            for key, version in page:
                one = members.get(key)
                if one is not None and one.sighted(version, at):
                    moved.append(one)
            full, after = len(page) == PAGE, page[-1][0] if page else ""
            while len(moved) >= BATCH or (moved and not full):
                await self._read(moved[:BATCH])
                del moved[:BATCH]
            await checkpoint()
        for one in members.values():
            if one.key in self._unreadable:
                continue
            if not one.is_seen_since(began) and one.sighted(None, began):
                one.hear(None, began)
                self._wake(one.name)

    async def _read(self, moved: list[Followed]) -> None:
        at = self._around.clock.boot()
        with self._asking():
            found = await self._store.load_many([one.key for one in moved])
        for one in moved:
            held = found.get(one.key)
            if isinstance(held, RecordUnreadable):
                # Why it can't be read, its own turn finds out, and tells.
                self._unreadable.add(one.key)
                one.distrust()
            else:
                one.hear(held, at)
        turns = [self._wake(one.name) for one in moved]
        # What was read is held until its turn has come: that of thousands takes much room.
        with move_on_after(TURNS):
            while (
                len(waiting := [turned for turned in turns if turned is not None and not turned.is_set()])
                > FEW
            ):
                await waiting[FEW].wait()

    def _asking(self) -> AbstractContextManager[None]:
        return asking(self._around.store.kind, self._around.emit)

    async def _patrol(self, members: dict[str, Followed]) -> None:
        """Give those a turn whose files somebody else has touched."""
        for number, one in enumerate(members.values()):
            if one.is_touched():
                self._wake(one.name)
            if number % BATCH == 0:
                await checkpoint()


def _nothing_to_tidy() -> bool:
    return True
