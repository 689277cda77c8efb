"""How tokens stand, as far as the store and the outputs tell while no daemon runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from sidecar import __version__, schedule
from sidecar.cli import common
from sidecar.clock import SystemClock
from sidecar.events import TokenView
from sidecar.outputs import open_output
from sidecar.publisher import Publisher
from sidecar.pulse import Heartbeats
from sidecar.server.status import Process, status_document
from sidecar.tokens import ExpirySource, GrantState, OutcomeClass

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.events import Event
    from sidecar.ports import Held


def document(settings: Settings) -> dict[str, Any]:
    """Build the status document, less what only a running daemon knows."""
    clock = SystemClock()
    views = anyio.run(_read, settings, clock)
    whole = status_document(
        views,
        process=Process.now(clock, version=__version__, instance=""),
        config={"path": str(settings.path), "accepted": True, "problems": []},
        heartbeats=Heartbeats(clock),
        clock=clock,
    )
    return {key: whole[key] for key in ("version", "now", "config", "tokens")}


async def _read(settings: Settings, clock: SystemClock) -> list[TokenView]:
    held: dict[str, Held | None] = dict.fromkeys(settings.tokens)
    async with common.open_existing(settings) as store:
        if store is not None:
            held = {name: await store.load(common.key_of(settings, name)) for name in settings.tokens}
    return [await _view(settings, name, held[name], clock) for name in sorted(settings.tokens)]


async def _view(settings: Settings, name: str, held: Held | None, clock: SystemClock) -> TokenView:
    token, profile = settings.tokens[name], settings.profiles[name]
    record = held.record if held is not None else None
    access = record.access if record is not None else None
    refresh = record.refresh if record is not None else None
    policy = schedule.Policy(min_validity=token.min_validity, refresh_at=token.refresh_at, lease=token.lease)
    outputs = [open_output(one, state_dir=settings.state_dir, clock=clock) for one in token.outputs]
    state, reason = standing(held, needs_refresh_token=profile.needs_refresh_token)
    return TokenView(
        token=name,
        provider=settings.provider_names[name],
        required=token.required,
        on_dead=token.on_dead.value,
        dead_grace=token.dead_grace,
        grant_state=state,
        reason=reason,
        lineage=record.lineage if record is not None else "",
        generation=record.generation if record is not None else 0,
        fingerprint=access.fingerprint if access is not None else "",
        expires_at=access.expires_at if access is not None else None,
        never_expires=access is not None and access.expires_at is None,
        expiry_known=access is not None and access.expiry_source is not ExpirySource.ASSUMED,
        refresh_fingerprint=refresh.fingerprint if refresh is not None else "",
        refresh_expires_at=refresh.expires_at if refresh is not None else None,
        min_validity=schedule.timing_of(record, policy, profile).min_validity,
        last_success=access.issued_at
        if access is not None and record is not None and record.generation
        else None,
        dead_since=record.dead.at
        if record is not None and record.dead is not None and record.is_dead()
        else None,
        in_doubt_since=record.attempt.in_doubt_since
        if record is not None and record.attempt is not None
        else None,
        outputs=await Publisher(name, outputs, _ignore).views(),
    )


def standing(held: Held | None, *, needs_refresh_token: bool) -> tuple[GrantState, str]:
    """Name a stored grant's state and, where it is not ok, the reason."""
    record = held.record if held is not None else None
    if record is None or held is None or (needs_refresh_token and record.refresh is None):
        if needs_refresh_token:
            return GrantState.UNSEEDED, "the store holds no refresh token"
        return GrantState.OK, ""
    if record.dead is not None and record.is_dead():
        return GrantState.DEAD, record.dead.reason
    if record.attempt is not None and (record.attempt.in_doubt_since or held.lease_left <= 0):
        return GrantState.IN_DOUBT, "a request was sent whose answer is not known"
    if record.backoff is not None:
        misconfigured = record.backoff.outcome is OutcomeClass.MISCONFIGURED
        return GrantState.MISCONFIGURED if misconfigured else GrantState.RETRYING, record.backoff.reason
    return GrantState.OK, ""


def _ignore(_event: Event) -> None:
    """Nobody observes what is only read."""
