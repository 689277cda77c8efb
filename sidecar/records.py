"""The store of a configuration, for whoever looks at records beside the daemon."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from sidecar.clock import SystemClock
from sidecar.errors import StoreMissing, TemporarilyUnavailable
from sidecar.seal import open_sealer
from sidecar.stores import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.config import Settings
    from sidecar.ports import Store


def make_store(settings: Settings, *, create: bool = True) -> Store:
    """Make the store with its keys; its `async with` creates what is missing, if wanted. Raises `ConfigError`."""
    place = settings.store
    sealer = open_sealer(place.encryption_keys)
    return open_store(
        str(place.url),
        SystemClock(),
        sealer,
        url_file=place.url_file,
        create=create,
        namespace=settings.namespace,
    )


@asynccontextmanager
async def open_existing(settings: Settings) -> AsyncIterator[Store | None]:
    """Open the store for as long as the block lasts; None if there is none yet, and none is created.

    Raises `TemporarilyUnavailable` for a store that lives in the daemon's own memory, and `StoreError`.
    """
    if settings.store.scheme == "memory":
        raise TemporarilyUnavailable("the store is in the daemon's memory, and no daemon runs; start it")
    async with AsyncExitStack() as stack:
        try:
            opened: Store | None = await stack.enter_async_context(make_store(settings, create=False))
        except StoreMissing:
            opened = None
        yield opened
