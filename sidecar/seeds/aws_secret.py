"""A seed in a secret of AWS Secrets Manager, which is only ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.clients.aws import Fault, Kind
from sidecar.errors import SeedError
from sidecar.seeds.polled import PolledSeed

if TYPE_CHECKING:
    from sidecar.clients.aws import SecretsManager
    from sidecar.clock import Clock
    from sidecar.config.settings import AwsSecret, SeedSource


class AwsSeed(PolledSeed):
    """See `PolledSeed`."""

    def __init__(
        self, source: SeedSource, place: AwsSecret, api: SecretsManager, *, clock: Clock, living: bool
    ) -> None:
        """See `sidecar.seeds.open_seed`."""
        super().__init__(f"aws:{place.name}", source, named=place.name, clock=clock, living=living)
        self._name = place.name
        self._api = api

    async def _fetch(self) -> bytes | None:
        try:
            found = await self._api.value(self._name)
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                self.missing = f"the seed {fault}"
                return None
            raise SeedError(f"seed {self.id}: {fault}") from None
        text = found.text or ""
        if not text.strip():
            self.missing = f"the seed {self.id} is empty: write the refresh token into it, as text"
            return None
        return text.encode()
