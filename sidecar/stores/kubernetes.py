"""Records in Secrets of a Kubernetes cluster, one a token, shared by any number of daemons.

The Secrets are there before: this store neither creates nor deletes any, so that a Role which names them is enough.
A write is one PATCH that names the `resourceVersion` which it replaces; the API server takes it or says that somebody
was faster. There is no clock to share: each process judges a lease by for how long it has seen nobody write.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from typing import TYPE_CHECKING, Self

import msgspec

from sidecar.config.kubernetes import SecretPlace, secret_place
from sidecar.errors import ConfigError, StoreError, Unlisted, Unwritten
from sidecar.seal import CLEAR
from sidecar.stores.base import Blob, RecordStore, conflict

try:
    from sidecar.clients import kubernetes
except ModuleNotFoundError as missing:
    if missing.name != "lightkube":
        raise
    raise ConfigError(
        "store: a kubernetes:// URL needs the extra `kubernetes`: pip install 'token-sidecar[kubernetes]'"
    ) from None

if TYPE_CHECKING:
    from types import TracebackType

    from sidecar.clients.kubernetes import Fault, Secret
    from sidecar.clock import Clock
    from sidecar.ports import Sealer, Store

DATA = "record"
"""The key of a Secret's data under which the record is."""
KEY = "token-sidecar/key"
WRITE = "token-sidecar/write"
LEASE = "token-sidecar/lease"
"""Annotations: whose record it is; a random id of the write; for how many seconds it protects an attempt."""
LABELS = {"token-sidecar/holds": "record"}
"""What the Secrets with records are listed by."""
TYPE = "Opaque"
LONGEST_LEASE = 3600.0
"""Seconds. A holder that lives writes far more often; an annotation that says more was written by hand."""
RACES = 5
"""Changes of other parts of a Secret in a row before a write is left to the next turn."""


class _Seen(msgspec.Struct, frozen=True):
    """A Secret as it was last seen, but for what is in it."""

    resource_version: str
    """Names this very state of the Secret, so that what is judged of it here holds if a write names it."""
    version: str | None
    """None: it holds no record."""
    lease: float
    since: float
    """When this process first saw this version, on its boot-time clock."""
    others: int
    """Bytes under other keys."""
    refusal: str
    """Why it must not be written; empty: it may."""


class KubernetesStore(RecordStore):
    """A Secret for each token; leases count from when they are first seen."""

    kind = "kubernetes"

    def __init__(
        self,
        place: SecretPlace,
        clock: Clock,
        sealer: Sealer = CLEAR,
        *,
        patience: float = kubernetes.CALL_SECONDS,
    ) -> None:
        """Take the place of the Secrets, and the clock by whose `boot()` leases are judged."""
        super().__init__(place.url, sealer)
        self.volatile = False
        self._secrets = place
        self._clock = clock
        self._api = kubernetes.Kubernetes(patience=patience)
        self._seen: dict[str, _Seen] = {}

    def __repr__(self) -> str:
        """Show where it is."""
        return f"KubernetesStore({self._secrets.url})"

    async def __aenter__(self) -> Self:
        """Find out where the API is, and ask it nothing: a daemon starts while the API server is away."""
        try:
            await self._api.__aenter__()
        except kubernetes.Fault as fault:
            raise ConfigError(f"store: {fault}") from None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections, after the calls that are under way."""
        await self._api.__aexit__(kind, error, traceback)

    async def _load_blob(self, key: str) -> Blob | None:
        secret = await self._get(key)
        seen = self._notice(key, secret)
        if seen.version is None:
            return None
        left = max(0.0, seen.since + seen.lease - self._clock.boot())
        return Blob(secret.data[DATA], seen.version, left)

    async def _write_blob(self, key: str, blob: bytes, *, expected: str | None, lease: float) -> str:
        written = secrets.token_hex(8)
        annotations = {KEY: key, WRITE: written, LEASE: f"{lease:.3f}" if lease > 0 else None}
        await self._change(key, blob, annotations, expected=expected)
        return _version(written, blob)

    async def _delete_blob(self, key: str, *, expected: str) -> None:
        await self._change(key, None, dict.fromkeys((KEY, WRITE, LEASE)), expected=expected)

    async def keys(self, prefix: str = "") -> list[str]:
        """List all keys that begin so. Raises `Unlisted` where that right is lacking, which a daemon does without."""
        try:
            found = await self._api.list_secrets(self._secrets.namespace, LABELS)
        except kubernetes.Fault as fault:
            kind = Unlisted if fault.kind is kubernetes.Kind.FORBIDDEN else StoreError
            raise kind(self._told(str(fault))) from None
        named = [(one.annotations.get(KEY, ""), one.name) for one in found if DATA in one.data]
        return sorted(key for key, name in named if key.startswith(prefix) and name == self._name(key))

    async def probe(self, key: str) -> None:
        """See `SupportsProbe`: a PATCH with `dryRun=All` takes the same rights, and does nothing."""
        seen = self._notice(key, await self._get(key))
        if obstacle := self._obstacle(key, seen, None):
            raise Unwritten(self._told(obstacle))
        try:
            await self._api.change_secret(
                self._secrets.namespace,
                self._name(key),
                annotations={KEY: key},
                resource_version=seen.resource_version,
                dry_run=True,
            )
        except kubernetes.Fault as fault:
            if fault.kind is not kubernetes.Kind.CONFLICT:  # somebody else could write just now
                raise self._fault(fault, certain=True) from None

    async def _change(
        self, key: str, blob: bytes | None, annotations: dict[str, str | None], *, expected: str | None
    ) -> None:
        """Replace what is there, if its version is still `expected`; None for the blob takes it away."""
        seen = self._seen.get(key)
        for _ in range(RACES):
            # What was seen last may be outdated. Then the API server says so, and it is read anew: somebody may have
            # changed no more than a label.
            if seen is None or seen.version != expected or self._obstacle(key, seen, blob):
                seen = self._notice(key, await self._get(key))
            if seen.version != expected:
                raise conflict(key, self._place, expected=expected)
            # Never from memory: a commit that is refused until nobody looks again would be refused for ever.
            if obstacle := self._obstacle(key, seen, blob):
                raise Unwritten(self._told(obstacle))
            sent = self._clock.boot()
            try:
                secret = await self._api.change_secret(
                    self._secrets.namespace,
                    self._name(key),
                    data={DATA: blob},
                    annotations=annotations,
                    labels=LABELS if blob is not None else dict.fromkeys(LABELS),
                    resource_version=seen.resource_version,
                )
            except kubernetes.Fault as fault:
                if fault.kind is not kubernetes.Kind.CONFLICT:
                    raise self._fault(fault, certain=fault.refused) from None
                seen = None
            else:
                self._notice(key, secret, since=sent)
                return
        raise Unwritten(self._told(f"{key}: the Secret is changed by others faster than it can be written"))

    async def _get(self, key: str) -> Secret:
        try:
            secret = await self._api.get_secret(self._secrets.namespace, self._name(key))
        except kubernetes.Fault as fault:
            raise self._fault(fault, certain=True) from None
        holds = secret.annotations.get(KEY, key)
        if holds != key:
            raise Unwritten(
                self._told(
                    f"the Secret {secret.name} holds the record {holds}, not {key}; give each its own name prefix"
                )
            )
        if secret.type != TYPE:
            raise Unwritten(
                self._told(
                    f"the Secret {secret.name} is of the type {secret.type}, not {TYPE}; another name prefix leads to "
                    "Secrets of ours"
                )
            )
        return secret

    def _notice(self, key: str, secret: Secret, *, since: float | None = None) -> _Seen:
        blob, version = secret.data.get(DATA), None
        if blob is not None:
            version = _version(secret.annotations.get(WRITE, ""), blob)
        before = self._seen.get(key)
        if since is None:
            unmoved = before is not None and before.version == version
            since = before.since if before is not None and unmoved else self._clock.boot()
        seen = _Seen(
            resource_version=secret.resource_version,
            version=version,
            lease=_seconds(secret.annotations.get(LEASE, "")),
            since=since,
            others=secret.size_with({DATA: None}),
            refusal=kubernetes.unwritable(secret, undone="a rotation"),
        )
        self._seen[key] = seen
        return seen

    def _obstacle(self, key: str, seen: _Seen, blob: bytes | None) -> str:
        """Say why the Secret must not be written as it was seen; empty: it may be."""
        if seen.refusal:
            return f"the Secret {self._name(key)} {seen.refusal}"
        size = len(blob or b"")
        if size + seen.others <= kubernetes.SECRET_LIMIT:
            return ""
        more = f" with {seen.others} bytes that others keep there" if seen.others else ""
        return (
            f"the record {key} has {size} bytes{more}, and a Secret holds {kubernetes.SECRET_LIMIT} at most; ask the "
            "provider for fewer claims or scopes, or keep it in another store"
        )

    def _name(self, key: str) -> str:
        return self._secrets.secret_of(key.partition("/")[2])

    def _told(self, text: str) -> str:
        return f"the store {self._place}: {text}"

    def _fault(self, fault: Fault, *, certain: bool) -> StoreError:
        return (Unwritten if certain else StoreError)(self._told(str(fault)))


def _version(written: str, blob: bytes) -> str:
    """Name what a Secret holds: a record that was edited by hand is another version, whatever its annotations say."""
    return f"{written}.{hashlib.sha256(blob).hexdigest()[:16]}"


def _seconds(lease: str) -> float:
    try:
        seconds = float(lease)
    except ValueError:
        return 0.0
    return min(seconds, LONGEST_LEASE) if math.isfinite(seconds) and seconds > 0 else 0.0


def from_url(url: str, clock: Clock, sealer: Sealer, **_: object) -> Store:
    """Make the store of `kubernetes://NAMESPACE/NAME-PREFIX`."""
    return KubernetesStore(secret_place(url), clock, sealer)
