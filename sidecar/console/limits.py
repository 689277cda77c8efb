"""How often somebody may ask: token buckets, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 4096
"""Buckets; the one that was used least recently makes room, and begins anew when its owner comes back."""


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float
    missed: int = 0


class Limit:
    """A rate for each of many askers."""

    def __init__(self, now: Callable[[], float], *, burst: int, per_minute: float) -> None:
        """`now` gives monotonic seconds."""
        self._now = now
        self._burst = burst
        self._rate = per_minute / 60
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def admits(self, asker: str) -> bool:
        """Count one request, and tell whether it is within the rate."""
        now = self._now()
        bucket = self._buckets.pop(asker, None) or _Bucket(float(self._burst), now)
        self._buckets[asker] = bucket
        if len(self._buckets) > MOST:
            self._buckets.popitem(last=False)
        bucket.left = min(float(self._burst), bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.left < 1:
            bucket.missed += 1
            return False
        bucket.left -= 1
        return True

    def missed(self, asker: str) -> int:
        """Tell how many of an asker's requests were not admitted since this was asked last."""
        bucket = self._buckets[asker]
        missed, bucket.missed = bucket.missed, 0
        return missed
