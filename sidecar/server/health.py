"""Pure: what the probes answer, and why. It reads views and numbers, and does no I/O.

| Probe | 200 when |
|---|---|
| startup | every required token has a usable access token, of its own lineage, in each required output |
| ready | every required token's published access token is unexpired, as read back from the outputs |
| live | every worker showed that it works, and no required grant has been dead for longer than its grace |

Trouble with a provider, the network or the store never fails liveness: a restart cures none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sidecar.config.settings import OnDead
from sidecar.events import OutputView, SetListed, TokenView
from sidecar.tokens import GrantState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NEW_DEATH_GRACE = 60.0
"""Seconds for metrics to be scraped and alerts to fire before the restart."""

FOUND_DEAD_GRACE = 15 * 60.0
"""Seconds; longer than the ten clean minutes after which kubelet's back-off starts anew."""


class Verdict(msgspec.Struct, frozen=True):
    """A probe's answer."""

    reasons: tuple[str, ...] = ()
    """Why not, one line each: which token, what is wrong, what to do about it."""

    @property
    def ok(self) -> bool:
        """Tell whether there is nothing against it."""
        return not self.reasons


def livez(
    views: Iterable[TokenView],
    *,
    stale: Iterable[str] = (),
    ages: Mapping[str, float] | None = None,
    now: float,
    uptime: float,
) -> Verdict:
    """Judge whether a restart is called for.

    `stale` names the workers whose heartbeat is too old and `ages` tells how old (seconds). `now` is the wall
    clock, `uptime` the seconds since this process started on a clock that doesn't step: a grace counts from
    the later of verdict and process start, so no jump of the wall clock ends it before its time.
    """
    ages = ages or {}
    hung = [
        f"worker {worker}: no heartbeat {_for(ages.get(worker))}; it hangs, restart the daemon"
        for worker in stale
    ]
    dead = (_dead_too_long(view, now, uptime) for view in views)
    return Verdict(tuple(hung) + tuple(reason for reason in dead if reason))


def readyz(views: Iterable[TokenView], *, now: float) -> Verdict:
    """Judge whether every required token can be used by readers now.

    A dead grant with `on_dead: report` doesn't count.
    """
    counted = (view for view in views if view.required and not _only_reported(view))
    return Verdict(tuple(reason for view in counted for reason in _unusable(view, now)))


def readyz_token(views: Iterable[TokenView], token: str, *, now: float) -> Verdict | None:
    """Judge one token, required or not; None when there is none of this name."""
    for view in views:
        if view.token == token:
            return Verdict(tuple(_unusable(view, now)))
    return None


def startupz(views: Iterable[TokenView], *, now: float, sets: Iterable[SetListed] = ()) -> Verdict:
    """Judge whether every required token was published as its own; a marker may say so in its stead.

    Of a required set it has to be known who its tokens are.
    """
    required = (view for view in views if view.required)
    unknown = [
        " ".join(f"{one.of}: its accounts are not known yet: {one.problem}".split())
        for one in sets
        if one.required and one.listed_at is None
    ]
    return Verdict((*unknown, *(reason for view in required for reason in _not_started(view, now))))


def _dead_too_long(view: TokenView, now: float, uptime: float) -> str | None:
    if not view.required or view.on_dead != OnDead.RESTART or view.grant_state is not GrantState.DEAD:
        return None
    grace = view.dead_grace
    if grace is None:
        grace = FOUND_DEAD_GRACE if view.found_dead else NEW_DEATH_GRACE
    dead_for = uptime if view.dead_since is None else min(now - view.dead_since, uptime)
    if dead_for <= grace:
        return None
    return _sentence(view, f"dead for {dead_for:.0f} s, longer than its grace of {grace:.0f} s")


def _only_reported(view: TokenView) -> bool:
    return view.grant_state is GrantState.DEAD and view.on_dead == OnDead.REPORT


def _not_started(view: TokenView, now: float) -> list[str]:
    strangers = [
        _sentence(view, f"{output.output} holds a token of another lineage, not yet replaced")
        for output in view.outputs
        if output.required and output.fingerprint is not None and not _own(view, output)
    ]
    return strangers or _unusable(view, now)


def _own(view: TokenView, output: OutputView) -> bool:
    """Tell whether an output's token is this record's, though perhaps of an earlier generation."""
    return output.fingerprint == view.fingerprint or (bool(view.lineage) and output.lineage == view.lineage)


def _unusable(view: TokenView, now: float) -> list[str]:
    """Say what keeps readers from a valid token, for each required output that they read it from."""
    outputs = [output for output in view.outputs if output.required]
    if outputs:
        problems = [(output.output, _problem(view, output, now)) for output in outputs]
        return [_sentence(view, f"{place} {problem}") for place, problem in problems if problem]
    if not view.fingerprint:
        return [_sentence(view, "there is no access token yet")]
    problem = _expired(view.expires_at, never=view.never_expires, now=now)
    return [_sentence(view, f"the access token {problem}")] if problem else []


def _problem(view: TokenView, output: OutputView, now: float) -> str | None:
    if output.fingerprint is None:
        return f"holds no usable token ({output.problem})" if output.problem else "holds no token"
    if output.expires_at is None and not output.never_expires:
        # Formats without an expiry, after the index was lost: our own record still knows its own token.
        if output.fingerprint != view.fingerprint:
            return "holds a token that this daemon doesn't know, in a format that tells no expiry"
        return _expired(view.expires_at, never=view.never_expires, now=now)
    return _expired(output.expires_at, never=output.never_expires, now=now)


def _expired(expires_at: float | None, *, never: bool, now: float) -> str | None:
    if never or expires_at is None or expires_at > now:
        return None
    return f"expired {now - expires_at:.0f} s ago"


def _sentence(view: TokenView, problem: str) -> str:
    """Join token, problem, the grant's own reason and the remedy into one line."""
    parts = [f"{view.token}: {problem}"]
    if view.grant_state is not GrantState.OK:
        parts.append(f"the grant is {view.grant_state.value}" + (f" ({view.reason})" if view.reason else ""))
    if view.remedy:
        parts.append(view.remedy)
    return " ".join("; ".join(parts).split())


def _for(age: float | None) -> str:
    return "yet" if age is None else f"for {age:.0f} s"
