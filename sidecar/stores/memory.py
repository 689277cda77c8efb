"""Records in this process's memory: for tests, and for grants that can always ask for a new token."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from typing import TYPE_CHECKING, Self

import msgspec
from anyio.lowlevel import checkpoint

from sidecar.errors import ConfigError
from sidecar.seal import CLEAR
from sidecar.stores.base import Blob, Claim, ClaimStore, conflict

if TYPE_CHECKING:
    from types import TracebackType

    from sidecar.clock import Clock
    from sidecar.errors import RecordUnreadable
    from sidecar.ports import Held, Sealer, Store


class _Row(msgspec.Struct, frozen=True):
    version: str
    blob: bytes
    lease_until: float
    due: float | None = None
    """Unix seconds."""
    claim: Claim | None = None

    def __repr__(self) -> str:
        """Show no byte of the blob: it holds secrets."""
        return f"_Row(version={self.version}, {len(self.blob)} bytes)"


class MemoryStore(ClaimStore):
    """A dict of blobs, gone with the process.

    It uses no thread, so that the engine can run on it under a mock clock. Entering and leaving it changes
    nothing: several simulated daemons can each open the one object, and share its records.
    """

    kind = "memory"

    def __init__(self, clock: Clock, sealer: Sealer = CLEAR) -> None:
        """Take the clock by whose `boot()` leases are judged."""
        super().__init__("memory", sealer)
        self.volatile = True
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._versions = count(1)

    def __repr__(self) -> str:
        """Show how much there is, and none of it."""
        return f"MemoryStore({len(self._rows)} records)"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Keep the records: only the process's end loses them."""

    # Each method gives way once, before it touches anything: there tasks interleave and cancellation arrives,
    # as with a store that waits. What follows doesn't wait, and is atomic thereby.

    async def _load_blob(self, key: str) -> Blob | None:
        await checkpoint()
        row = self._rows.get(key)
        if row is None:
            return None
        return self._shown(row)

    def _shown(self, row: _Row) -> Blob:
        return Blob(row.blob, row.version, max(0.0, row.lease_until - self._clock.boot()), row.claim)

    async def _write_due_blob(
        self, key: str, blob: bytes, *, expected: str | None, lease: float, due: float | None
    ) -> str:
        await checkpoint()
        self._check(key, expected)
        version = str(next(self._versions))
        until = self._clock.boot() + lease if lease > 0 else 0.0
        self._rows[key] = _Row(version=version, blob=blob, lease_until=until, due=due)
        return version

    async def _claim_blobs(
        self, prefix: str, claim: Claim, *, most: int, lease: float
    ) -> list[tuple[str, Blob]]:
        await checkpoint()
        now, boot = self._clock.wall(), self._clock.boot()
        due = sorted(
            (row.due, key)
            for key, row in self._rows.items()
            if row.due is not None and row.due <= now and row.lease_until <= boot and key.startswith(prefix)
        )
        for _, key in due[:most]:
            self._rows[key] = _Row(claim.version, self._rows[key].blob, boot + lease, claim=claim)
        return [(key, self._shown(self._rows[key])) for _, key in due[:most]]

    async def load_many(self, keys: Collection[str]) -> dict[str, Held | RecordUnreadable]:
        """See `SupportsMany.load_many`."""
        await checkpoint()
        return self._all_opened({key: self._shown(self._rows[key]) for key in keys if key in self._rows})

    async def versions(self, prefix: str, *, after: str, most: int) -> list[tuple[str, str]]:
        """See `SupportsFollowing.versions`."""
        await checkpoint()
        found = sorted(key for key in self._rows if key.startswith(prefix) and key > after)
        return [(key, self._rows[key].version) for key in found[:most]]

    async def keys(self, prefix: str = "") -> list[str]:
        await checkpoint()
        return sorted(key for key in self._rows if key.startswith(prefix))

    async def _delete_blob(self, key: str, *, expected: str) -> None:
        await checkpoint()
        self._check(key, expected)
        del self._rows[key]

    def _check(self, key: str, expected: str | None) -> None:
        row = self._rows.get(key)
        if (row.version if row else None) != expected:
            raise conflict(key, self._place, expected=expected)


def from_url(url: str, clock: Clock, sealer: Sealer, **_: object) -> Store:
    """Make the store of `memory:`."""
    if url.partition(":")[2].strip("/"):
        raise ConfigError("store: `memory:` takes nothing behind the colon; every daemon has its own")
    return MemoryStore(clock, sealer)
