"""Records in AWS Secrets Manager, one secret a token, in a layout that others read. For one daemon.

Versions of a value are few (about a hundred a day), so that only a new token makes one: it is added under a label of
ours, and then AWSCURRENT is moved to it from the very version that was read, which is the compare-and-set. What changes
between two refreshes lies in the secret's tags. Those are set without comparing, so that two daemons which take a lease
in the same moment may both believe that they have it; docs/explanation/stores.md tells what follows.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import secrets
from collections import defaultdict
from typing import TYPE_CHECKING, Self

import anyio
import msgspec

from sidecar.config.aws import SecretsPlace, secrets_place
from sidecar.errors import ConfigError, RecordUnreadable, StoreError, Unlisted, Unwritten
from sidecar.ports import Finding, Grade, Held
from sidecar.seal import CLEAR
from sidecar.stores import aws_value
from sidecar.stores.base import conflict
from sidecar.tokens import new_id

try:
    from sidecar.clients import aws
except ModuleNotFoundError as missing:
    if missing.name not in {"aiobotocore", "botocore"}:
        raise
    raise ConfigError(
        "store: an aws-secretsmanager:// URL needs the extra `aws`: pip install 'token-sidecar[aws]'"
    ) from None

if TYPE_CHECKING:
    from types import TracebackType

    from sidecar.clients.aws import Described, Fault, Value
    from sidecar.clients.shared import SharedClients
    from sidecar.clock import Clock
    from sidecar.ports import Sealer, Store
    from sidecar.tokens import Record

NAMESPACE = "token-sidecar:namespace"
STATE = "token-sidecar:state"
"""Tags: which namespace a record belongs to; what lies beside the value, in pieces `…:state-1` and so on."""
PENDING = "token-sidecar-pending"
"""The label of the version that was added last, whether or not AWSCURRENT has come to it."""
PIECES = 8
"""Tags for what lies beside a value; a secret has 50, most of which are the user's."""
LONGEST_LEASE = 3600.0
"""Seconds. A holder that lives writes far more often; a tag that says more was written by hand."""
REMEMBERED = 8
"""Versions that were replaced here, by which an answer that lags behind is recognised."""


SEALED = (
    "store: encryption_keys seal nothing here: others read the tokens of an aws-secretsmanager:// store in clear, and "
    "AWS encrypts them with KMS; leave the keys out"
)


class _State(msgspec.Struct, frozen=True):
    """What the tags say."""

    id: str = ""
    lease: float = 0.0
    packed: bytes | None = None


class _Look(msgspec.Struct, frozen=True):
    """A secret with a record, as it was seen."""

    version: str
    """Names this very state of it: the version of the value, and the write of what lies beside."""
    value: Value
    base: Record
    """What the version holds."""
    record: Record
    lease: float

    def __repr__(self) -> str:
        """Show no more than which it is."""
        return f"_Look({self.version})"


class _Memory:
    """What this process knows of one record."""

    def __init__(self) -> None:
        self.turn = anyio.Lock()
        """Writes of one record take turns: AWS would let both of two begin."""
        self.value: Value | None = None
        """The version that was read last: nobody can change it."""
        self.seen: str | None = None
        self.since = 0.0
        """When `seen` was first seen, on the boot-time clock."""
        self.wrote: _Look | None = None
        self.wrote_at = -math.inf
        self.replaced: tuple[str, ...] = ()

    def notice(self, version: str, now: float) -> float:
        if version != self.seen:
            self.seen, self.since = version, now
        return self.since


class AwsStore:
    """A secret for each token; see `Store` for the contract. Leases count from when they are first seen."""

    kind = "aws_secretsmanager"

    def __init__(
        self,
        place: SecretsPlace,
        clock: Clock,
        api: aws.SecretsManager,
        *,
        namespace: str = "default",
        for_good: bool = False,
    ) -> None:
        """Take the place of the secrets, and the clock by whose `boot()` leases are judged.

        `namespace`: whose a secret is that doesn't say. `for_good`: whether the secret of a dead grant may be deleted.
        """
        self.volatile = False
        self._place = place
        self._clock = clock
        self._api = api
        self._namespace = namespace
        self._known: defaultdict[str, _Memory] = defaultdict(_Memory)
        self.deletes_dead = for_good

    def __repr__(self) -> str:
        """Show where it is."""
        return f"AwsStore({self._place.url})"

    async def __aenter__(self) -> Self:
        """Ask nothing: a daemon starts while AWS is away."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections; whoever else asks something opens them again."""
        await self._api.__aexit__(kind, error, traceback)

    async def load(self, key: str) -> Held | None:
        """See `Store.load`."""
        look = await self._look(key)
        if look is None:
            return None
        since = self._known[key].notice(look.version, self._clock.boot())
        return Held(look.record, look.version, max(0.0, since + look.lease - self._clock.boot()))

    async def write(self, key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        """See `Store.write`."""
        known = self._known[key]
        async with known.turn:
            look = await self._expected(key, expected)
            sent = self._clock.boot()
            written = await self._written(key, look, record, lease)
            self._remember(known, look, written, sent)
            return written.version

    async def delete(self, key: str, *, expected: str) -> None:
        """See `Store.delete`: the secret is marked for deletion, and can be restored for 30 days."""
        await self._delete(key, expected, for_good=False)

    async def discard(self, key: str, *, expected: str) -> str:
        """See `SupportsDiscard`: there is no way back."""
        await self._delete(key, expected, for_good=True)
        return f"the secret {self._place.secret_of(key)}"

    async def keys(self, prefix: str = "") -> list[str]:
        """See `Store.keys`. What was created in the last minutes may be missing: AWS says so."""
        try:
            found = await self._api.list(self._place.beginning_of(prefix))
        except aws.Fault as fault:
            kind = Unlisted if fault.kind is aws.Kind.FORBIDDEN else StoreError
            raise kind(self._told(str(fault))) from None
        keys = (
            f"{one.tags.get(NAMESPACE, self._namespace)}/{name}"
            for one in found
            if (name := self._place.record_of(one.name)) is not None
        )
        return sorted(key for key in keys if key.startswith(prefix))

    async def probe(self, key: str) -> None:
        """See `SupportsProbe`: the version that is there is added again, and its tags are set to what they are."""
        name = self._place.secret_of(key)
        try:
            described = await self._described(name)
            if described is None or described.deleted or described.current is None:
                return
            value = await self._value(key, name, described.current)
            if value.text is not None:
                await self._api.put(name, value.text, version=value.version, stages=[aws.CURRENT])
            ours = {tag: text for tag, text in described.tags.items() if tag.startswith(STATE)}
            if ours:
                await self._api.tag(name, ours)
        except aws.Fault as fault:
            raise self._fault(fault, certain=True) from None

    async def diagnose(self) -> list[Finding]:
        """See `SupportsDiagnosis`."""
        try:
            where = await self._api.place()
            found = await self._api.list(self._place.beginning_of(""))
        except aws.Fault as fault:
            if fault.kind is not aws.Kind.FORBIDDEN:
                raise self._fault(fault, certain=True) from None
            remedy = f"{fault.remedy}; configured tokens do without, sets of tokens don't"
            return [Finding(Grade.WARNING, fault.reason, remedy)]
        lines = [
            Finding(
                Grade.OK,
                f"{len(found)} secret{'s' if len(found) != 1 else ''} under {self._place.prefix}/ in {where}",
            )
        ]
        if "http://" in where and not re.search(r"//(127\.|localhost|\[::1\])", where):
            lines.append(
                Finding(
                    Grade.WARNING,
                    "secrets travel in clear to that endpoint",
                    "write https in AWS_ENDPOINT_URL",
                )
            )
        turned = [one.name for one in found if one.rotates]
        if turned:
            text = (
                f"AWS's own rotation is switched on for {', '.join(turned[:3])}, and would write there, too"
            )
            lines.append(Finding(Grade.FAILED, text, "cancel it: aws secretsmanager cancel-rotate-secret"))
        return lines

    # Reading

    async def _look(self, key: str) -> _Look | None:
        name, known = self._place.secret_of(key), self._known[key]
        try:
            described = await self._described(name)
            look = await self._judged(key, name, described)
        except aws.Fault as fault:
            raise self._fault(fault, certain=True) from None
        lately = self._clock.boot() - known.wrote_at < aws.SETTLED_AFTER
        return known.wrote if lately and look is not None and look.version in known.replaced else look

    async def _described(self, name: str) -> Described | None:
        try:
            return await self._api.describe(name)
        except aws.Fault as fault:
            if fault.kind is aws.Kind.MISSING:
                return None
            raise

    async def _judged(self, key: str, name: str, described: Described | None) -> _Look | None:
        if described is None or described.deleted or described.current is None:
            return None
        current = await self._rolled_forward(key, name, described)
        value = await self._value(key, name, current)
        found = aws_value.read(
            value.text, key=key, place=self._place.url, version=value.version, written_at=value.created
        )
        state = self._state(key, described.tags, current)
        record = found.record
        if state.packed is not None:
            try:
                record = aws_value.with_beside(record, state.packed)
            except ValueError:
                raise self._spoilt(key) from None
        return _Look(f"{current}.{state.id}", value, found.record, record, state.lease)

    async def _rolled_forward(self, key: str, name: str, described: Described) -> str:
        """Return the id of the version that counts, after seeing a write through that broke off before its end."""
        current, pending = str(described.current), described.stages.get(PENDING)
        if pending is None or pending == current:
            return current
        added = await self._api.value(name, pending)
        found = aws_value.read(
            added.text, key=key, place=self._place.url, version=pending, written_at=added.created
        )
        if found.replaces != current:
            return current  # somebody wrote the secret since: it came too late
        try:
            await self._api.move(name, aws.CURRENT, to=pending, away_from=current)
        except aws.Fault as fault:
            if fault.kind is not aws.Kind.MOVED:
                raise
        return pending

    async def _value(self, key: str, name: str, version: str) -> Value:
        known = self._known[key]
        if known.value is None or known.value.version != version:
            known.value = await self._api.value(name, version)
        return known.value

    def _state(self, key: str, tags: dict[str, str], current: str) -> _State:
        """Read what lies beside this version; what lay beside another one is over."""
        parts = tags.get(STATE, "").split(" ")
        if len(parts) != 5 or parts[1] != current:  # noqa: PLR2004 - see `_tags`
            return _State()
        written, _, lease, count, checksum = parts
        pieces = [tags.get(f"{STATE}-{number + 1}", "") for number in range(_count(count))]
        try:
            packed = base64.urlsafe_b64decode("".join(pieces))
        except ValueError:
            packed = b""
        if _checksum(packed) != checksum:
            raise self._spoilt(key)
        return _State(written, _seconds(lease), packed)

    # Writing

    async def _expected(self, key: str, expected: str | None) -> _Look | None:
        try:
            look = await self._look(key)
        except RecordUnreadable:
            raise conflict(key, self._place.url, expected=expected) from None
        if (look.version if look is not None else None) != expected:
            raise conflict(key, self._place.url, expected=expected)
        return look

    async def _written(self, key: str, look: _Look | None, record: Record, lease: float) -> _Look:
        name = self._place.secret_of(key)
        try:
            if look is not None:
                packed = aws_value.beside(look.base, record)
                if packed is not None and len(base64.urlsafe_b64encode(packed)) <= aws.TAG_LIMIT * PIECES:
                    return await self._set_beside(name, look, record, packed, lease)
            made = await self._added(key, name, look, record)
            if lease > 0:
                packed = aws_value.beside(record, record) or b""
                return await self._set_beside(name, made, record, packed, lease)
        except aws.Fault as fault:
            if fault.kind in {aws.Kind.MOVED, aws.Kind.EXISTS}:
                raise conflict(key, self._place.url, expected=look.version if look else None) from None
            raise self._fault(fault, certain=False) from None
        else:
            return made

    async def _set_beside(self, name: str, look: _Look, record: Record, packed: bytes, lease: float) -> _Look:
        current, written = look.value.version, secrets.token_hex(8)
        encoded = base64.urlsafe_b64encode(packed).decode()
        pieces = [encoded[at : at + aws.TAG_LIMIT] for at in range(0, len(encoded), aws.TAG_LIMIT)]
        tags = {f"{STATE}-{number + 1}": piece for number, piece in enumerate(pieces)}
        tags[STATE] = f"{written} {current} {lease:.3f} {len(pieces)} {_checksum(packed)}"
        await self._api.tag(name, tags)
        return _Look(f"{current}.{written}", look.value, look.base, record, lease)

    async def _added(self, key: str, name: str, look: _Look | None, record: Record) -> _Look:
        """Add a version, and make it the current one."""
        described = await self._described(name) if look is None else None
        if described is not None and described.current is not None and not described.deleted:
            raise conflict(key, self._place.url, expected=None)  # somebody was faster
        before = look.value if look is not None else None
        version = _token(look)
        text = aws_value.write(
            before.text if before is not None else None,
            record,
            key=key,
            replaces=before.version if before is not None else "",
            now=self._clock.wall(),
        )
        self._check_size(key, text)
        if look is None and described is None:
            await self._api.create(name, text, version=version, tags={NAMESPACE: key.partition("/")[0]})
            return self._fresh(version, text, record)
        if described is not None and described.deleted:
            await self._api.restore(name)
        version = await self._put(name, text, version)
        current = (
            before.version if before is not None else described.current if described is not None else None
        )
        if current is not None:
            await self._api.move(name, aws.CURRENT, to=version, away_from=current)
        return self._fresh(version, text, record)

    async def _put(self, name: str, text: str, version: str) -> str:
        try:
            await self._api.put(name, text, version=version, stages=[PENDING])
        except aws.Fault as fault:
            if fault.kind is not aws.Kind.EXISTS:
                raise
            # From an earlier try, which somebody else's write has overtaken.
            version = new_id()
            await self._api.put(name, text, version=version, stages=[PENDING])
        return version

    def _fresh(self, version: str, text: str, record: Record) -> _Look:
        return _Look(f"{version}.", aws.Value(version, text, self._clock.wall()), record, record, 0.0)

    async def _delete(self, key: str, expected: str, *, for_good: bool) -> None:
        known = self._known[key]
        async with known.turn:
            look = await self._expected(key, expected)
            sent = self._clock.boot()
            try:
                await self._api.delete(self._place.secret_of(key), for_good=for_good)
            except aws.Fault as fault:
                raise self._fault(fault, certain=False) from None
            self._remember(known, look, None, sent)

    def _remember(self, known: _Memory, before: _Look | None, written: _Look | None, sent: float) -> None:
        if before is not None:
            known.replaced = (*known.replaced, before.version)[-REMEMBERED:]
        known.wrote, known.wrote_at = written, sent
        known.value = written.value if written is not None else None
        if written is not None:
            known.notice(written.version, sent)

    def _check_size(self, key: str, text: str) -> None:
        size = len(text.encode())
        if size > aws.VALUE_LIMIT:
            raise Unwritten(
                self._told(
                    f"the record {key} has {size} bytes, and a secret holds {aws.VALUE_LIMIT} at most; ask the "
                    "provider for fewer claims or scopes, or keep it in another store"
                )
            )

    def _spoilt(self, key: str) -> RecordUnreadable:
        name = self._place.secret_of(key)
        return RecordUnreadable(
            f"the record {key} in {self._place.url}: the tags {STATE}… of the secret {name} are damaged, or were "
            "edited by hand; they are left untouched: remove them, and the grant goes on without what they told"
        )

    def _told(self, text: str) -> str:
        return f"the store {self._place.url}: {text}"

    def _fault(self, fault: Fault, *, certain: bool) -> StoreError:
        return (Unwritten if certain or fault.refused else StoreError)(self._told(str(fault)))


def _token(look: _Look | None) -> str:
    """Name the version that ends an attempt after it, so that whoever looks for a lost commit finds it."""
    attempt = look.record.attempt if look is not None else None
    return attempt.id if attempt is not None and re.fullmatch("[0-9a-f-]{32,64}", attempt.id) else new_id()


def _count(text: str) -> int:
    return min(int(text), PIECES) if text.isdecimal() else 0


def _checksum(packed: bytes) -> str:
    return hashlib.sha256(packed).hexdigest()[:16]


def _seconds(text: str) -> float:
    seconds = float(text) if re.fullmatch(r"\d{1,9}\.\d{3}", text) else 0.0
    return min(seconds, LONGEST_LEASE)


def from_url(
    url: str,
    clock: Clock,
    sealer: Sealer = CLEAR,
    *,
    clients: SharedClients | None = None,
    namespace: str = "default",
    delete_dead: bool = False,
    **_: object,
) -> Store:
    """Make the store of `aws-secretsmanager://PREFIX`."""
    if sealer.first:
        raise ConfigError(SEALED)
    api = clients.secrets_manager if clients is not None else aws.SecretsManager()
    return AwsStore(secrets_place(url), clock, api, namespace=namespace, for_good=delete_dead)
