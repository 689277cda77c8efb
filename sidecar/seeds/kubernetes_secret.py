"""A seed in one key of a Kubernetes Secret, which is only ever read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar import schedule
from sidecar.clients.kubernetes import Fault, Kind, own_namespace
from sidecar.errors import SeedError
from sidecar.seeds import parse_named

if TYPE_CHECKING:
    from sidecar.clients.kubernetes import Kubernetes
    from sidecar.clock import Clock
    from sidecar.config.settings import SecretKey, SeedSource
    from sidecar.ports import Seeding


class SecretSeed:
    """Polled by the token's own turns, without a watch. See `Seed` for the contract."""

    def __init__(
        self, source: SeedSource, place: SecretKey, api: Kubernetes, *, clock: Clock, living: bool
    ) -> None:
        """See `sidecar.seeds.open_seed`."""
        self._namespace, self._name, self._key = place.namespace or own_namespace(), place.name, place.key
        self.id = f"secret:{self._namespace}/{self._name}/{self._key}"
        self.missing = ""
        self._source = source
        self._api = api
        self._clock = clock
        self._living = living
        self._looked: float | None = None
        self._content: bytes | None = None
        self._outcome: Seeding | SeedError | None = None

    async def read(self) -> Seeding | None:
        """See `Seed.read`. The answer may be half a minute old."""
        # A quiet token asks in each of its turns, a busy one not: an API server in trouble must not hold it up.
        if self._looked is None or self._clock.boot() - self._looked >= schedule.QUIET_POLL / 2:
            await self._look()
            self._looked = self._clock.boot()
        if isinstance(self._outcome, SeedError):
            raise SeedError(str(self._outcome))
        return self._outcome

    async def _look(self) -> None:
        self.missing = ""
        try:
            secret = await self._api.get_secret(self._namespace, self._name, verbs=("get",))
        except Fault as fault:
            self._content = None
            if fault.kind is Kind.MISSING:
                self.missing, self._outcome = self._advice(f"the seed {fault}"), None
            else:
                self._outcome = SeedError(f"seed {self.id}: {fault}")
            return
        content = secret.data.get(self._key, b"")
        if not content.strip():
            what = "is empty" if self._key in secret.data else "is not there yet"
            self.missing = f"the seed {self.id} {what}: put the refresh token under the key {self._key}"
            self._content, self._outcome = None, None
        elif content != self._content:
            self._content, self._outcome = content, self._understood(content)

    def _advice(self, fault: str) -> str:
        return f"{fault} --from-file={self._key}=FILE"

    def _understood(self, content: bytes) -> Seeding | SeedError:
        try:
            return parse_named(
                content,
                self._source,
                place=f"seed {self.id}",
                named=self._key,
                written_at=self._clock.wall(),
                living=self._living,
            )
        except SeedError as error:
            return error
