"""A heap of wake times and a bounded set of workers serve every token; there is no task per token.

A waiting token costs one heap entry. When it is due it moves to a second heap, ordered by how soon its access
token ends, and the next free worker takes its turn. A turn whose answer is late gives its worker back and goes on
by itself; the token is not scheduled again before that turn is over.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING, Protocol

import anyio

from sidecar.pulse import TICK
from sidecar.schedule import Wake

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from sidecar.clock import Clock
    from sidecar.pulse import Heartbeats, Pulse

STEP = 1.0
"""Seconds by which the wall clock must have jumped before waits are reckoned anew."""


class Turns(Protocol):
    """Whatever takes turns."""

    async def turn(self, late: Callable[[], None]) -> Wake:
        """Take one turn; see `sidecar.renewer.Renewer.turn`."""
        ...


class _Entry:
    """One token's place in the schedule."""

    __slots__ = ("at_wall", "name", "removed", "running", "task", "ticket", "turned", "urgency", "wanted")

    def __init__(self, name: str, task: Turns) -> None:
        self.name = name
        self.task = task
        self.at_wall = 0.0
        self.urgency = 0.0
        self.ticket = 0
        """Makes earlier heap entries of the same token recognisable as outdated."""
        self.running = False
        self.wanted = False
        self.removed = False
        self.turned: anyio.Event | None = None
        """Set at the end of the turn that comes next; there is none while nobody waits for it."""


class Scheduler:
    """Gives every token its turns."""

    def __init__(self, clock: Clock, heartbeats: Heartbeats, pulse: Pulse, *, workers: int) -> None:
        """Prepare `workers` workers; they start with `run`."""
        self._clock = clock
        self._heartbeats = heartbeats
        self._pulse = pulse
        self._workers = tuple(f"renewer-{number}" for number in range(workers))
        for name in self._workers:
            heartbeats.expect(name)
        self._entries: dict[str, _Entry] = {}
        self._waiting: list[tuple[float, int, _Entry]] = []
        """By due time on the boot-time clock."""
        self._ready: list[tuple[float, int, _Entry]] = []
        """By the expiry of the access token."""
        self._tickets = itertools.count(1)
        self._offset = clock.wall() - clock.boot()
        self._bell = anyio.Event()
        """Rings for the dispatcher: something is due earlier than it believed."""

    def add(self, name: str, task: Turns, *, after: float = 0.0) -> None:
        """Take in a token; its first turn is now (`after` so many seconds), or after the one that it was removed in."""
        entry = self._entries.get(name)
        if entry is not None and entry.running:
            entry.task, entry.removed, entry.wanted = task, False, True
            return
        entry = self._entries[name] = _Entry(name, task)
        if after > 0:
            at = self._clock.wall() + after
            self._wait_for(entry, Wake(at, urgency=at))
        else:
            self._make_ready(entry)

    def remove(self, name: str) -> None:
        """Let a token go; a turn under way is finished."""
        entry = self._entries.get(name)
        if entry is None:
            return
        entry.removed = True
        if entry.turned is not None:
            entry.turned.set()
        if not entry.running:
            del self._entries[name]

    def wake(self, name: str) -> anyio.Event | None:
        """Ask for a turn that begins from now on; returns the event that is set at its end."""
        entry = self._entries.get(name)
        if entry is None or entry.removed:
            return None
        if entry.running:
            entry.wanted = True
        else:
            self._make_ready(entry)
        if entry.turned is None:
            entry.turned = anyio.Event()
        return entry.turned

    async def run(self) -> None:
        """Serve for ever. An unknown exception of a turn ends it: a bug is not to be slept over."""
        async with anyio.create_task_group() as tasks:
            for name in self._workers:
                tasks.start_soon(self._work, name, tasks, name=name)
            await self._dispatch()

    # The dispatcher

    async def _dispatch(self) -> None:
        while True:
            self._follow_the_wall_clock()
            now = self._clock.boot()
            while self._waiting and self._waiting[0][0] <= now:
                _, ticket, entry = heapq.heappop(self._waiting)
                if entry.ticket == ticket and not entry.removed:
                    self._make_ready(entry)
            self._pulse.beat()
            pause = min(self._waiting[0][0] - now, TICK) if self._waiting else TICK
            self._bell = anyio.Event()
            with anyio.move_on_after(max(pause, 0.0)):
                await self._bell.wait()

    def _follow_the_wall_clock(self) -> None:
        """Bring forward what a stepped wall clock made due: whichever clock says "now" first is right."""
        offset = self._clock.wall() - self._clock.boot()
        step = offset - self._offset
        self._offset = offset
        if abs(step) < STEP:
            return
        self._waiting = [
            (min(due, entry.at_wall - offset), ticket, entry)
            for due, ticket, entry in self._waiting
            if entry.ticket == ticket
        ]
        heapq.heapify(self._waiting)

    def _make_ready(self, entry: _Entry) -> None:
        entry.ticket = next(self._tickets)
        heapq.heappush(self._ready, (entry.urgency, entry.ticket, entry))
        self._pulse.beat()

    def _wait_for(self, entry: _Entry, wake: Wake) -> None:
        entry.at_wall, entry.urgency, entry.ticket = wake.at, wake.urgency, next(self._tickets)
        due = self._clock.boot() + max(0.0, wake.at - self._clock.wall())
        heapq.heappush(self._waiting, (due, entry.ticket, entry))
        if self._waiting[0][2] is entry:
            self._bell.set()

    # The workers

    async def _work(self, name: str, tasks: TaskGroup) -> None:
        while True:
            self._heartbeats.stamp(name)
            entry = self._next()
            if entry is None:
                await self._pulse.wait()
                continue
            entry.running, freed = True, anyio.Event()
            tasks.start_soon(self._turn, entry, freed)
            await freed.wait()

    def _next(self) -> _Entry | None:
        while self._ready:
            _, ticket, entry = heapq.heappop(self._ready)
            if entry.ticket == ticket and not entry.removed:
                return entry
        return None

    async def _turn(self, entry: _Entry, freed: anyio.Event) -> None:
        turned, entry.turned = entry.turned, None
        try:
            wake = await entry.task.turn(freed.set)
        finally:
            entry.running = False
            if turned is not None:
                turned.set()
            freed.set()
        if entry.removed:
            del self._entries[entry.name]
            return
        if entry.wanted:
            entry.wanted = False
            self._make_ready(entry)
        else:
            self._wait_for(entry, wake)
