"""How often somebody may ask: token buckets, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 4096
"""Buckets; the one that was used least recently makes room, and begins anew when its owner comes back."""


class Limit:
    """A rate for each of many askers."""

    def __init__(self, now: Callable[[], float], *, burst: int, per_minute: float) -> None:
        """`now` gives monotonic seconds."""
        self._now = now
        self._burst = burst
        self._rate = per_minute / 60
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admits(self, asker: str) -> bool:
        """Count one request, and tell whether it is within the rate."""
        now = self._now()
        left, at = self._buckets.pop(asker, (float(self._burst), now))
        left = min(float(self._burst), left + (now - at) * self._rate)
        admitted = left >= 1
        self._buckets[asker] = (left - 1 if admitted else left, now)
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        return admitted
