"""A seed in one key of a Kubernetes Secret, which is only ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.clients.kubernetes import Fault, Kind, own_namespace
from sidecar.errors import SeedError
from sidecar.seeds.polled import PolledSeed

if TYPE_CHECKING:
    from sidecar.clients.kubernetes import Kubernetes
    from sidecar.clock import Clock
    from sidecar.config.settings import SecretKey, SeedSource


class SecretSeed(PolledSeed):
    """See `PolledSeed`."""

    def __init__(
        self, source: SeedSource, place: SecretKey, api: Kubernetes, *, clock: Clock, living: bool
    ) -> None:
        """See `sidecar.seeds.open_seed`."""
        self._namespace, self._name, self._key = place.namespace or own_namespace(), place.name, place.key
        where = f"secret:{self._namespace}/{self._name}/{self._key}"
        super().__init__(where, source, named=self._key, clock=clock, living=living)
        self._api = api

    async def _fetch(self) -> bytes | None:
        try:
            secret = await self._api.get_secret(self._namespace, self._name, verbs=("get",))
        except Fault as fault:
            if fault.kind is Kind.MISSING:
                self.missing = f"the seed {fault} --from-file={self._key}=FILE"
                return None
            raise SeedError(f"seed {self.id}: {fault}") from None
        content = secret.data.get(self._key, b"")
        if not content.strip():
            what = "is empty" if self._key in secret.data else "is not there yet"
            self.missing = f"the seed {self.id} {what}: put the refresh token under the key {self._key}"
            return None
        return content
