"""What commands do by themselves while no daemon runs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
import click
from msgspec.structs import replace

from sidecar import config as configuration
from sidecar.audit import auditing
from sidecar.clock import SystemClock
from sidecar.deputy import Deputy
from sidecar.observers import log
from sidecar.observers.audit import AuditObserver

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.server.wire import RefreshReply, RevokeReply, SeedReply, SeedRequest

Reply = TypeVar("Reply")

_tell = partial(click.echo, err=True)


def refresh(config: Path, name: str, rejected: str | None) -> RefreshReply:
    """Refresh one token here; see `Deputy.refresh`."""
    return _quietly(config, name, "refresh", lambda deputy: deputy.refresh(name, rejected, _tell))


def seed(config: Path, name: str, request: SeedRequest) -> SeedReply:
    """Start a new lineage in the store; the daemon finds it when it starts."""
    reply = _quietly(config, name, request.deed, lambda deputy: deputy.seed(name, request, _tell))
    return reply if reply.aside else replace(reply, message=f"{reply.message} as soon as the daemon runs")


def revoke(config: Path, name: str) -> RevokeReply:
    """End a grant at the provider, and write that into the store."""
    return _quietly(config, name, "revoke", lambda deputy: deputy.revoke(name, _tell))


def _quietly(config: Path, name: str, what: str, deed: Callable[[Deputy], Awaitable[Reply]]) -> Reply:
    loaded = configuration.load(config)
    emit = AuditObserver(SystemClock(), loaded.settings.audit.file).notice

    async def work() -> Reply:
        return await auditing(deed(Deputy(loaded)), emit, who=f"uid {os.getuid()}", what=what, token=name)

    # What the engine would tell is told by the reply or by the error.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        log.configure("error", "json", nowhere)
        return anyio.run(work)
