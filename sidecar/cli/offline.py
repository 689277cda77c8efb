"""What commands do by themselves while no daemon runs: under its lock, and with its engine."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import click
import msgspec
from msgspec.structs import replace

from sidecar import app
from sidecar import config as configuration
from sidecar.cli import common
from sidecar.engine import no_token
from sidecar.errors import InstanceRunning
from sidecar.observers import log
from sidecar.server.client import NotRunning
from sidecar.server.wire import RefreshReply, RevokeReply, SeedReply, SeedRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.app import House
    from sidecar.config import Loaded, Settings
    from sidecar.renewer import Renewer
    from sidecar.tokens import Record

PATIENCE = 330.0
"""Seconds for which somebody else may hold the lock: a provider's answer is waited for up to five minutes."""

POLL = 0.1

Reply = TypeVar("Reply")


def refresh(config: Path, name: str, rejected: str | None) -> RefreshReply:
    """Refresh one token here. Of several callers one calls the provider, and the others find its answer.

    `rejected`: fingerprint of the access token that was refused; None: the present one.
    """
    loaded = _alone(config, name)
    known = _record(loaded.settings, name)
    refused = _present(known) if rejected is None else rejected
    work = partial(anyio.run, _refresh, loaded, refused, known)
    return _in_turn(work, lambda: common.control(loaded.settings).refresh(name, rejected=refused))


def seed(config: Path, name: str, request: SeedRequest) -> SeedReply:
    """Start a new lineage in the store; the daemon finds it when it starts."""
    loaded = _alone(config, name)
    work = partial(anyio.run, _seed, loaded, name, request)
    return _in_turn(work, partial(common.control(loaded.settings).seed, name, request))


def revoke(config: Path, name: str) -> RevokeReply:
    """End a grant at the provider, and write that into the store."""
    loaded = _alone(config, name)
    work = partial(anyio.run, _revoke, loaded, name)
    return _in_turn(work, partial(common.control(loaded.settings).revoke, name))


def _in_turn(work: Callable[[], Reply], ask_daemon: Callable[[], Reply]) -> Reply:
    """Call `work` once nobody else holds `state_dir`; ask a daemon that was started meanwhile instead."""
    # What it would tell is told by the reply or by the error.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        log.configure("error", "json", nowhere)
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return work()
            except InstanceRunning:
                try:
                    return ask_daemon()
                except NotRunning:
                    if time.monotonic() > until:
                        raise
            # Waiting for the lock itself could take it from a daemon that is about to start.
            time.sleep(POLL)


def _alone(config: Path, name: str) -> Loaded:
    """Load the configuration with this one token, so that no other is worked on."""
    loaded = configuration.load(config)
    return msgspec.structs.replace(loaded, settings=loaded.settings.only(name), warnings=())


def _record(settings: Settings, name: str) -> Record | None:
    if settings.store.scheme == "memory":
        return None
    held = common.read_record(settings, name)
    return held.record if held is not None else None


async def _refresh(loaded: Loaded, refused: str, known: Record | None) -> RefreshReply:
    async with app.open_house(loaded) as house:
        await house.engine.start()
        turned, renewing = house.ended_turns, anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(house.renew, renewing)
            try:
                await turned.wait()
                [renewer] = house.engine
                reply = await _outcome(house, renewer, refused, known)
                if renewer.unpersisted:
                    click.echo(
                        "the store does not take the new refresh token yet; trying until it does", err=True
                    )
                await house.settle(renewing)
            finally:
                renewing.cancel()
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
        reply = await house.engine.seed(name, request)
    return reply if reply.aside else replace(reply, message=f"{reply.message} as soon as the daemon runs")


async def _revoke(loaded: Loaded, name: str) -> RevokeReply:
    async with app.open_house(loaded) as house:
        return await house.engine.revoke(name)


def _present(record: Record | None) -> str:
    return record.access.fingerprint if record is not None and record.access is not None else ""
