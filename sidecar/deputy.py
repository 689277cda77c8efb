"""What is done while no daemon runs: under its lock, and with its engine.

A daemon that is started meanwhile is asked instead. Each call works on one token alone.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from msgspec.structs import replace

from sidecar import app, records
from sidecar.audit import auditing
from sidecar.engine import no_token
from sidecar.errors import InstanceRunning, SidecarError, TemporarilyUnavailable
from sidecar.server.client import ControlClient, NotRunning
from sidecar.server.wire import SOCKET_FILE, RefreshReply, RevokeReply, SeedReply, SeedRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.app import House
    from sidecar.config import Loaded, Settings
    from sidecar.renewer import Renewer
    from sidecar.tokens import Record

PATIENCE = 330.0
"""Seconds for which somebody else may hold the lock: a provider's answer is waited for up to five minutes."""
STORE_PATIENCE = 120.0
"""Seconds for which a consent is held on to while the store doesn't take it."""

POLL = 0.1
ME = f"uid {os.getuid()}"

Reply = TypeVar("Reply")


def alone(loaded: Loaded, name: str, *, publishes: bool = True) -> Loaded:
    """Keep this one token, so that no other is worked on.

    `publishes=False` leaves out its outputs, hooks and seed too: they are for the daemons that have them.
    """
    settings = loaded.settings.only(name)
    if not publishes:
        token = replace(settings.tokens[name], outputs=(), after_refresh=(), seed=None)
        settings = replace(settings, tokens={name: token})
    return replace(loaded, settings=settings, warnings=())


async def refresh(
    loaded: Loaded, name: str, rejected: str | None, tell: Callable[[str], None]
) -> RefreshReply:
    """Refresh one token here. Of several callers one calls the provider, and the others find its answer.

    `loaded` was made by `alone`. `rejected`: fingerprint of the access token that was refused; None: the present one.
    `tell` hears what takes long.
    """
    known = await _record(loaded.settings, name)
    refused = _present(known) if rejected is None else rejected
    work = partial(_refresh, loaded, refused, known, tell)
    return await _in_turn(work, partial(control(loaded.settings).refresh, name, rejected=refused))


async def seed(loaded: Loaded, name: str, request: SeedRequest) -> SeedReply:
    """Start a new lineage in the store; the daemon finds it when it starts, or at its next look."""
    work = partial(_seed, loaded, name, request)
    return await _in_turn(work, partial(control(loaded.settings).seed, name, request))


async def revoke(loaded: Loaded, name: str) -> RevokeReply:
    """End a grant at the provider, and write that into the store."""
    work = partial(_revoke, loaded, name)
    return await _in_turn(work, partial(control(loaded.settings).revoke, name))


async def insistently(plant: Callable[[], Awaitable[SeedReply]], tell: Callable[[str], None]) -> SeedReply:
    """Try until it is stored: a store that is away for a moment must not cost a human's consent."""
    until, delay = time.monotonic() + STORE_PATIENCE, 0.5
    while True:
        try:
            return await plant()
        except SidecarError as error:
            if error.exit_code != TemporarilyUnavailable.exit_code or time.monotonic() > until:
                raise
            if delay < 1:
                tell(f"{error}; the consent is held on to, and stored as soon as that is over")
        await anyio.sleep(delay)
        delay = min(delay * 2, 5.0)


def control(settings: Settings) -> ControlClient:
    """Make the client of the daemon's control socket; nothing is opened yet."""
    return ControlClient(settings.state_dir / SOCKET_FILE)


async def _in_turn(work: Callable[[], Awaitable[Reply]], ask_daemon: Callable[[], Reply]) -> Reply:
    """Call `work` once nobody else holds `state_dir`; ask a daemon that was started meanwhile instead."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return await work()
        except InstanceRunning:
            try:
                return await anyio.to_thread.run_sync(ask_daemon)
            except NotRunning:
                if time.monotonic() > until:
                    raise
        # Waiting for the lock itself could take it from a daemon that is about to start.
        await anyio.sleep(POLL)


async def _record(settings: Settings, name: str) -> Record | None:
    if settings.store.scheme == "memory":
        return None
    async with records.open_existing(settings) as store:
        held = await store.load(settings.key_of(name)) if store is not None else None
    return held.record if held is not None else None


async def _refresh(
    loaded: Loaded, refused: str, known: Record | None, tell: Callable[[str], None]
) -> RefreshReply:
    async with app.open_house(loaded) as house:
        await house.engine.start()
        turned, renewing = house.ended_turns, anyio.CancelScope()
        # Out of the tasks' block errors come as a group.
        reply: RefreshReply | SidecarError
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.renew, renewing)
            try:
                await turned.wait()
                [renewer] = house.engine
                outcome = _outcome(house, renewer, refused, known)
                reply = await auditing(outcome, house.emit, who=ME, what="refresh", token=renewer.setup.name)
                if renewer.unpersisted:
                    tell("the store does not take the new refresh token yet; trying until it does")
                await house.settle(renewing)
            except SidecarError as error:
                reply = error
            finally:
                renewing.cancel()
    if isinstance(reply, SidecarError):
        raise reply
    return reply


async def _outcome(house: House, renewer: Renewer, refused: str, known: Record | None) -> RefreshReply:
    """Say what the first turn came to; call the provider only if that turn did not."""
    name, record = renewer.setup.name, renewer.record
    if record is not None and record.access is not None and record.access.fingerprint != refused:
        called = _called(known, record)
        done = "refreshed to" if called else "replaced already: the present token is of"
        return RefreshReply(
            refreshed=called,
            message=f"{name} was {done} generation {record.generation}",
            fingerprint=record.access.fingerprint,
            expires_at=record.access.expires_at,
        )
    if record is None or _called(known, record):
        raise no_token(await renewer.look())
    return await house.engine.refresh(name, refused)


def _called(before: Record | None, after: Record) -> bool:
    """Tell whether the provider was called between two looks at a record."""
    return after.history[-1:] != (before.history[-1:] if before is not None else ())


async def _seed(loaded: Loaded, name: str, request: SeedRequest) -> SeedReply:
    async with app.open_house(loaded) as house:
        return await auditing(
            house.engine.seed(name, request), house.emit, who=ME, what=request.deed, token=name
        )


async def _revoke(loaded: Loaded, name: str) -> RevokeReply:
    async with app.open_house(loaded) as house:
        return await auditing(house.engine.revoke(name), house.emit, who=ME, what="revoke", token=name)


def _present(record: Record | None) -> str:
    return record.access.fingerprint if record is not None and record.access is not None else ""
