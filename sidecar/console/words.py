"""Times in words: how long from now, and exactly when."""

from __future__ import annotations

import time

import msgspec

_UNITS = ((86400, "day", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
_ALONE_FROM = {"day": 7, "h": 10, "min": 5}
"""From so many of a unit on, nobody wants to know the next smaller one as well."""


class Moment(msgspec.Struct, frozen=True):
    """A point in time, as people and as machines read it."""

    words: str
    """From now: `in 6 days`, `12 min ago`."""
    exact: str
    """`2026-11-21 04:10:32 UTC`."""
    iso: str
    """For `<time datetime>`: `2026-11-21T04:10:32Z`."""


def moment(at: float, now: float) -> Moment:
    """Describe the Unix time `at` as it is seen at `now`."""
    parts = time.gmtime(at)
    left = at - now
    words = "now" if abs(left) < 1 else f"in {span(left)}" if left > 0 else f"{span(-left)} ago"
    return Moment(
        words, time.strftime("%Y-%m-%d %H:%M:%S UTC", parts), time.strftime("%Y-%m-%dT%H:%M:%SZ", parts)
    )


def span(seconds: float) -> str:
    """Write a duration for reading: `42 s`, `3 h 20 min`, `6 days 4 h`; a fraction only below ten seconds."""
    for size, unit, next_size, next_unit in _UNITS:
        if seconds >= size:
            whole, rest = int(seconds // size), int(seconds % size // next_size)
            name = "days" if unit == "day" and whole > 1 else unit
            tail = f" {rest} {next_unit}" if rest and whole < _ALONE_FROM[unit] else ""
            return f"{whole} {name}{tail}"
    return f"{seconds:.2g} s" if 0 < seconds < 10 else f"{max(0, int(seconds))} s"  # noqa: PLR2004
