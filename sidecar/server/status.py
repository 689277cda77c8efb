"""The status document: what `/status`, the control socket and `token-sidecar status` show."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from sidecar.clock import Clock
from sidecar.events import ConfigLoaded, Event, SetListed, TokenView
from sidecar.pulse import Heartbeats
from sidecar.tokens import GrantState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.tokens import Record


MOST = 50
"""Accounts of a set that are named beside those that have a place of their own: who is in trouble, who was refused."""
WELL = (GrantState.OK, GrantState.RETRYING)


class Process(msgspec.Struct, frozen=True):
    """What there is to tell of the daemon itself."""

    version: str
    instance: str
    started_at: float
    """Wall clock, Unix seconds."""
    booted_at: float
    """The same moment by `Clock.boot`."""

    @classmethod
    def now(cls, clock: Clock, *, version: str, instance: str) -> Process:
        """Take the present moment as the process's start."""
        return cls(version, instance, clock.wall(), clock.boot())

    def uptime(self, clock: Clock) -> float:
        """Seconds since the start, on a clock that doesn't step."""
        return clock.boot() - self.booted_at


class ConfigState:
    """An observer that keeps how the configuration was last read."""

    def __init__(self, clock: Clock, path: str) -> None:
        """The configuration that the daemon started with is in force."""
        self._clock = clock
        self._state: dict[str, Any] = {
            "path": path,
            "accepted": True,
            "problems": [],
            "read_at": clock.wall(),
        }

    def notice(self, event: Event) -> None:
        """Keep the outcome of a reload."""
        if isinstance(event, ConfigLoaded):
            self._state |= {
                "accepted": event.accepted,
                "problems": list(event.problems),
                "read_at": self._clock.wall(),
            }

    def as_dict(self) -> dict[str, Any]:
        """Return path, accepted, problems and read_at (Unix seconds)."""
        return dict(self._state)


def status_document(
    views: Iterable[TokenView],
    *,
    process: Process,
    config: dict[str, Any],
    heartbeats: Heartbeats,
    clock: Clock,
    sets: Iterable[SetListed] = (),
) -> dict[str, Any]:
    """Build the document, of JSON types alone. Durations in seconds, times as Unix seconds."""
    now, views = clock.wall(), list(views)
    shown = [view for view in views if not view.aggregated]
    others: dict[str, list[TokenView]] = {}
    for view in views:
        if view.aggregated:
            others.setdefault(view.of_set, []).append(view)
    stamps = heartbeats.stamped_at()
    stale = set(heartbeats.stale())
    return {
        "version": process.version,
        "instance": process.instance,
        "started_at": process.started_at,
        "uptime": round(process.uptime(clock), 3),
        "now": now,
        "config": config,
        "tokens": {view.token: _token(view, now) for view in shown},
        "sets": {
            one.of: _set(one, others.get(one.of, []), now, seen=sum(view.of_set == one.of for view in views))
            for one in sets
        },
        "heartbeats": {
            worker: {"stamped_at": stamps.get(worker), "age": round(age, 3), "stale": worker in stale}
            for worker, age in sorted(heartbeats.ages().items())
        },
    }


def _set(listed: SetListed, others: list[TokenView], now: float, *, seen: int) -> dict[str, Any]:
    """Tell of a set, and of those of its members that have no place of their own in the document."""
    ends = [view.expires_at for view in others if view.fingerprint and view.expires_at is not None]
    troubled = [view for view in others if view.grant_state not in WELL]
    return {
        # Some may have come since it was looked who they are.
        "members": max(listed.members, seen),
        "listed_at": listed.listed_at,
        "problem": listed.problem,
        "refused": dict(listed.refused[:MOST]),
        "others": {
            "count": len(others),
            "access_state": Counter(view.access_state(now).value for view in others),
            "grant_state": Counter(view.grant_state.value for view in others),
            "seconds_left": _left(min(ends, default=None), now),
            "troubled": {
                view.token: {
                    "grant_state": view.grant_state.value,
                    "reason": view.reason,
                    "remedy": view.remedy,
                }
                for view in troubled[:MOST]
            },
        },
    }


def _token(view: TokenView, now: float) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(view)
    document["access_state"] = view.access_state(now).value
    document["seconds_left"] = _left(view.expires_at, now)
    for output, shown in zip(view.outputs, document["outputs"], strict=True):
        shown["seconds_left"] = _left(output.expires_at, now)
    return document


def history_of(record: Record | None) -> list[dict[str, Any]]:
    """Tell of the turns of a record's history, oldest first, of JSON types alone."""
    turns = record.history if record is not None else ()
    return [msgspec.structs.asdict(turn) | {"since": turn.began} for turn in turns]


def _left(expires_at: float | None, now: float) -> float | None:
    """Seconds until expiry; None where it never comes or isn't known."""
    if expires_at is None or not math.isfinite(expires_at):
        return None
    return round(expires_at - now, 3)
