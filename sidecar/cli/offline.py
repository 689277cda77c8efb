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
from sidecar import deputy
from sidecar.observers import log

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.config import Loaded
    from sidecar.server.wire import RefreshReply, RevokeReply, SeedReply, SeedRequest

Reply = TypeVar("Reply")


def refresh(config: Path, name: str, rejected: str | None) -> RefreshReply:
    """Refresh one token here; see `deputy.refresh`."""
    return _quietly(
        partial(deputy.refresh, _alone(config, name), name, rejected, partial(click.echo, err=True))
    )


def seed(config: Path, name: str, request: SeedRequest) -> SeedReply:
    """Start a new lineage in the store; the daemon finds it when it starts."""
    reply = _quietly(partial(deputy.seed, _alone(config, name), name, request))
    return reply if reply.aside else replace(reply, message=f"{reply.message} as soon as the daemon runs")


def revoke(config: Path, name: str) -> RevokeReply:
    """End a grant at the provider, and write that into the store."""
    return _quietly(partial(deputy.revoke, _alone(config, name), name))


def _quietly(work: Callable[[], Awaitable[Reply]]) -> Reply:
    # What the engine would tell is told by the reply or by the error.
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        log.configure("error", "json", nowhere)
        return anyio.run(work)


def _alone(config: Path, name: str) -> Loaded:
    return deputy.alone(configuration.load(config), name)
