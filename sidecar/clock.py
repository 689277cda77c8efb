"""The three clocks, injected everywhere so that tests can run a year in milliseconds.

*wall* is UTC and may step; it is compared with what providers say. *boot* is CLOCK_BOOTTIME: it never steps
and, unlike CLOCK_MONOTONIC, goes on while a machine is suspended; leases and waits are judged by it as well.
*monotonic* is what event loops sleep on; heartbeats use it, because a suspended process is not a hung one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """What the engine asks of time. All values are seconds."""

    def wall(self) -> float:
        """Seconds since the Unix epoch, UTC; may jump either way."""
        ...

    def boot(self) -> float:
        """Seconds since boot, suspend included; never jumps."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that stands still while the machine is suspended."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def wall(self) -> float:
        """See `Clock.wall`."""
        return time.time()

    def boot(self) -> float:
        """See `Clock.boot`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()


def boot_id() -> str:
    """Identify this boot of the kernel: boot-time stamps of another boot mean nothing here."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
