"""One slow tick for the whole house, and the heartbeats that liveness is judged by.

Everything that idles hangs on the same tick, so that an idle daemon wakes twice a minute and not once for each
of its parts. Only a worker stamps its own heartbeat, and only when it completed something or was idle and able
to: a parent that stamps for its children keeps a dead daemon "alive".
"""

from __future__ import annotations

import anyio

from sidecar.clock import Clock

TICK = 30.0
"""Seconds. Also the longest slice that the scheduler sleeps, so that a suspended machine or a stepped wall clock
is noticed this soon."""

STALE_AFTER = 4 * TICK
"""Seconds without a stamp after which a worker counts as hung."""


class Pulse:
    """Lets many idle tasks wait for one shared timer: the scheduler beats it at every turn of its own loop."""

    def __init__(self) -> None:
        """Start without anybody waiting."""
        self._beat = anyio.Event()

    def beat(self) -> None:
        """Wake whoever idles."""
        beat, self._beat = self._beat, anyio.Event()
        beat.set()

    async def wait(self) -> None:
        """Return at the next beat."""
        await self._beat.wait()


class Heartbeats:
    """When each worker was last known to work, on the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        """Know no worker yet."""
        self._clock = clock
        self._stamps: dict[str, float] = {}
        self._walls: dict[str, float] = {}

    def expect(self, worker: str) -> None:
        """Count on a worker that is about to begin: it hangs if it doesn't stamp from now on, either."""
        self._stamps.setdefault(worker, self._clock.monotonic())

    def stamp(self, worker: str) -> None:
        """Note that this worker is alive; to be called by the worker itself."""
        self._stamps[worker] = self._clock.monotonic()
        self._walls[worker] = self._clock.wall()

    def forget(self, worker: str) -> None:
        """Drop a worker that ended as it should."""
        self._stamps.pop(worker, None)
        self._walls.pop(worker, None)

    def ages(self) -> dict[str, float]:
        """Seconds since each worker's last stamp, or since it is expected."""
        now = self._clock.monotonic()
        return {worker: now - at for worker, at in self._stamps.items()}

    def stamped_at(self) -> dict[str, float]:
        """Wall clock (Unix seconds) of the last stamp of each that has stamped: for showing, never for judging."""
        return dict(self._walls)

    def stale(self) -> list[str]:
        """Name the workers that have not stamped for too long."""
        return [worker for worker, age in self.ages().items() if age > STALE_AFTER]
