"""A seed in one column of one row of an application's own table, which is only ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.clients.postgres import Fault
from sidecar.errors import SeedError
from sidecar.seeds.polled import PolledSeed

if TYPE_CHECKING:
    from sidecar.clients.rows import Row
    from sidecar.clock import Clock
    from sidecar.config.settings import SeedSource, SqlCell


class RowSeed(PolledSeed):
    """See `PolledSeed`."""

    def __init__(self, source: SeedSource, place: SqlCell, row: Row, *, clock: Clock, living: bool) -> None:
        """See `sidecar.seeds.open_seed`."""
        super().__init__(row.name, source, named=place.column, clock=clock, living=living)
        self._row = row

    async def _fetch(self) -> bytes | None:
        try:
            found = await self._row.read()
        except Fault as fault:
            raise SeedError(f"seed {self.id}: {fault}") from None
        if found is None:
            self.missing = f"the seed {self.id} has no such row: let the application make it"
            return None
        if found.content is None or not found.content.strip():
            what = "is NULL" if found.content is None else "is empty"
            self.missing = f"the seed {self.id} {what}: put the refresh token there"
            return None
        return found.content.encode()
