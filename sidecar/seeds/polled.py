"""A seed behind a network: asked for by the token's own turns, without a watch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sidecar import schedule
from sidecar.errors import SeedError
from sidecar.seeds import parse_named

if TYPE_CHECKING:
    from sidecar.clock import Clock
    from sidecar.config.settings import SeedSource
    from sidecar.ports import Seeding


class PolledSeed(ABC):
    """See `Seed` for the contract."""

    def __init__(self, place: str, source: SeedSource, *, named: str, clock: Clock, living: bool) -> None:
        """Take its id, and the name that its content has there. For `living`, see `sidecar.seeds.parse`."""
        self.id = place
        self.missing = ""
        self._source = source
        self._named = named
        self._clock = clock
        self._living = living
        self._looked: float | None = None
        self._content: bytes | None = None
        self._outcome: Seeding | SeedError | None = None

    async def read(self) -> Seeding | None:
        """See `Seed.read`. The answer may be half a minute old."""
        # A quiet token asks in each of its turns, a busy one not: a place in trouble must not hold it up.
        if self._looked is None or self._clock.boot() - self._looked >= schedule.QUIET_POLL / 2:
            await self._look()
            self._looked = self._clock.boot()
        if isinstance(self._outcome, SeedError):
            raise SeedError(str(self._outcome))
        return self._outcome

    @abstractmethod
    async def _fetch(self) -> bytes | None:
        """Return what is there; where that is nothing, `missing` says what to do. Raises `SeedError`."""

    async def _look(self) -> None:
        self.missing = ""
        try:
            content = await self._fetch()
        except SeedError as error:
            self._content, self._outcome = None, error
            return
        if content is None:
            self._content, self._outcome = None, None
        elif content != self._content:
            self._content, self._outcome = content, self._understood(content)

    def _understood(self, content: bytes) -> Seeding | SeedError:
        try:
            return parse_named(
                content,
                self._source,
                place=f"seed {self.id}",
                named=self._named,
                written_at=self._clock.wall(),
                living=self._living,
            )
        except SeedError as error:
            return error
