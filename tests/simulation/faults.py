"""The catalogue of all that goes wrong: what it is called, how likely it is, and how long it lasts.

At a port a probability is that of one visit. Beside the ports, at any time and to somebody, it is a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sidecar.testing import Fault, faults


class Chance(NamedTuple):
    """One thing that may go wrong in one place."""

    what: str
    probability: float
    values: tuple[float, ...] = (0,)
    """Seconds, as a rule; one of them is drawn."""
    whom: str = ""


DOWN = (0.1, 1, 10, 60, 250)
STILL = (2, 20, 100, 250)
SLOW = (0.01, 0.3, 3, 10)
AWAY = (5, 60, 200, 900)

KILLED, KILLED_AFTER = Chance("killed", 0.004, DOWN), Chance("killed-after", 0.004, DOWN)
"""SIGKILL on the way into a port, and on the way out; the value is how long it takes to start again, in place."""
REPLACED, REPLACED_AFTER = Chance("replaced", 0.001, DOWN), Chance("replaced-after", 0.001, DOWN)
"""The same, and it starts elsewhere, with another `state_dir`."""
FROZEN, FROZEN_AFTER = Chance("frozen", 0.003, STILL), Chance("frozen-after", 0.003, STILL)

ANYWHERE = (KILLED, KILLED_AFTER, REPLACED, REPLACED_AFTER)

LOAD = (
    *ANYWHERE,
    FROZEN,
    FROZEN_AFTER,
    Chance("refused", 0.01),
    Chance("late", 0.02, SLOW),
    Chance("late-reply", 0.01, SLOW),
    Chance("lost-reply", 0.01),
    Chance("severed", 0.001, AWAY),
)
WRITE = (
    *ANYWHERE,
    FROZEN,
    FROZEN_AFTER,
    Chance("refused", 0.02),
    Chance("late", 0.03, SLOW),
    Chance("late-reply", 0.02, SLOW),
    Chance("lost-reply", 0.03),
    Chance("severed", 0.015, AWAY),
)
"""Severed: the reply is lost because this daemon loses its way to the store, for so many seconds."""
CONNECT = (*ANYWHERE, FROZEN, Chance("unreachable", 0.05), Chance("late", 0.08, SLOW))
SEND = (*ANYWHERE, Chance("frozen", 0.008, (5, 60, 400)))
"""Behind the gate: to stand still here is window W5."""
RECEIVE = (*ANYWHERE, FROZEN)
ESCROW = (*ANYWHERE, Chance("broken", 0.004))
"""No room, or a volume that can't be written any more."""
PUBLISH = (*ANYWHERE, FROZEN, Chance("broken", 0.01))

ANSWERS: dict[str, Callable[[float], Fault]] = {
    "late-arrival": lambda value: faults.latency(before=value),
    "late-answer": lambda value: faults.latency(after=value),
    "reset": lambda _: faults.reset(),
    "reset-processed": lambda _: faults.reset(processed=True),
    "closed": lambda _: faults.close(),
    "closed-processed": lambda _: faults.close(processed=True),
    "held": lambda _: faults.hold(),
    "held-processed": lambda _: faults.hold(processed=True),
    "half": lambda _: faults.half(),
    "500": lambda _: faults.status(500),
    "502-processed": lambda _: faults.status(502, processed=True),
    "504-processed": lambda _: faults.status(504, processed=True),
    "503": lambda _: faults.status(503),
    "503-retry-after": lambda value: faults.status(503, retry_after=value),
    "429": lambda value: faults.status(429, retry_after=value),
    "web-page": lambda _: faults.html(),
    "web-page-processed": lambda _: faults.html(processed=True),
    "truncated": lambda _: faults.truncated(),
    "empty": lambda _: faults.empty(),
    "short-life": lambda value: faults.expires_in(value / 20 - 1),
    "life-as-text": lambda value: faults.expires_in(str(int(value))),
    "no-life": lambda _: faults.without("expires_in"),
    "endless-life": lambda _: faults.expires_in(10**18),
    "same-token": lambda _: faults.same_token(),
    "unavailable": lambda _: faults.error(400, "temporarily_unavailable"),
    "invalid-client": lambda _: faults.error(401, "invalid_client"),
    "redirect": lambda _: faults.redirect("https://elsewhere.example/"),
}
ANSWER = tuple(Chance(what, 0.12 / len(ANSWERS), (1, 20, 100)) for what in ANSWERS)

TIMED = (
    Chance("outage", 2, (1, 30, 300, 900), "world"),
    Chance("suspended", 1, (10, 200), "world"),
    Chance("rollback", 1, (5, 60, 600), "world"),
    Chance("cut-off", 3, (5, 60, 200), "host"),
    Chance("frozen", 2, (2, 20, 100, 500), "host"),
    Chance("killed", 2, DOWN, "host"),
    Chance("replaced", 1, DOWN, "host"),
    Chance("reload", 2, (0, 1, 2, 3), "host"),
    Chance("clock", 3, (-600, -60, -1, 1, 60, 600), "host"),
    Chance("deleted", 0.5, (0,), "token"),
    Chance("consent", 1, (0, 1, 2), "token"),
    Chance("new-seed", 1, (0,), "token"),
    Chance("old-seed", 1, (0, 1), "token"),
    Chance("refused", 2, (0, 1, 2), "token"),
    Chance("revoked", 0.5, (0,), "token"),
)
