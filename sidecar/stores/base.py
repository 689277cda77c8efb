"""What all stores have alike: records become blobs, sealed where keys are configured, and a lost race has a name.

An adapter moves blobs. It knows neither what is in them nor how they are sealed.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from sidecar.errors import Conflict, RecordUnreadable, SealError
from sidecar.ports import Claimed, Held
from sidecar.seal.layout import is_key_id
from sidecar.tokens import SCHEMA_VERSION, Attempt, Record, decode_record, encode_record, new_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.ports import Sealer


class Claim(msgspec.Struct, frozen=True):
    """What is written down of a claim, outside of the blob: the store can't open it."""

    id: str
    instance: str
    at: float
    """Unix seconds."""
    version: str
    """The one that the claim made: a later write, be it an older daemon's, ends it."""

    def attempt(self, key: str, record: Record) -> Attempt:
        """Tell of the attempt that it stands for: one claim is of many records, and each has an attempt of its own."""
        own = hashlib.sha256(f"{self.id} {key}".encode()).hexdigest()[:32]
        used = record.refresh.fingerprint if record.refresh is not None else ""
        return Attempt(id=own, instance=self.instance, fingerprint=used, started_at=self.at)


class Blob(msgspec.Struct, frozen=True):
    """What an adapter found under a key."""

    data: bytes | None
    """None: there is something, and it is no bytes."""
    version: str
    lease_left: float
    claim: Claim | None = None
    """Who claimed it since it was written."""

    def __repr__(self) -> str:
        """Show no byte of it: it may hold secrets."""
        return f"Blob(version={self.version}, {len(self.data or b'')} bytes)"


class RecordStore(ABC):
    """A `Store` (see there for the contract), but for the moving of blobs.

    A record keeps the key that it is sealed with, so that a write has to know it. It travels in the version
    (`17@6a09e667bcc9`), which names the very blob that is replaced: nothing is remembered that could be outdated.
    """

    def __init__(self, place: str, sealer: Sealer) -> None:
        """`place` names the store in messages."""
        self._place = place
        self._sealer = sealer

    @abstractmethod
    async def _load_blob(self, key: str) -> Blob | None:
        """Do what `Store.load` says."""

    @abstractmethod
    async def _write_blob(self, key: str, blob: bytes, *, expected: str | None, lease: float) -> str:
        """Do what `Store.write` says."""

    @abstractmethod
    async def _delete_blob(self, key: str, *, expected: str) -> None:
        """Do what `Store.delete` says."""

    async def load(self, key: str) -> Held | None:
        """See `Store.load`."""
        blob = await self._load_blob(key)
        return self._held(key, blob) if blob is not None else None

    def _held(self, key: str, blob: Blob) -> Held:
        """Open what an adapter found. Raises `RecordUnreadable`."""
        record, key_id = self._opened(key, blob)
        if blob.claim is not None and blob.claim.version == blob.version and record.attempt is None:
            record = msgspec.structs.replace(record, attempt=blob.claim.attempt(key, record))
        return Held(record, _tagged(blob.version, key_id), blob.lease_left, key_id)

    async def write(self, key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        """See `Store.write`."""
        key_id = self._sealer.first if expected is None else _split(expected)[1]
        return await self._sealed(key, record, key_id, expected=expected, lease=lease)

    async def delete(self, key: str, *, expected: str) -> None:
        """See `Store.delete`."""
        await self._delete_blob(key, expected=_split(expected)[0])

    async def rekey(self, key: str, *, clear: bool = False) -> bool:
        """See `SupportsRekey.rekey`."""
        held, wanted = await self.load(key), "" if clear else self._sealer.first
        if held is None or held.sealed_with == wanted:
            return False
        await self._sealed(key, held.record, wanted, expected=held.version, lease=held.lease_left)
        return True

    def _all_opened(self, blobs: Mapping[str, Blob]) -> dict[str, Held | RecordUnreadable]:
        """Do what `SupportsMany.load_many` says, with what an adapter found."""
        found: dict[str, Held | RecordUnreadable] = {}
        for key, blob in blobs.items():
            try:
                found[key] = self._held(key, blob)
            except RecordUnreadable as error:
                found[key] = error
        return found

    def _opened(self, key: str, blob: Blob) -> tuple[Record, str]:
        try:
            data, key_id = self._sealer.open(blob.data or b"", _purpose(key))
        except SealError as error:
            raise RecordUnreadable(
                f"the store {self._place}: {error.reason}; it is left untouched: {error.remedy}"
            ) from None
        return read_blob(data, key=key, place=self._place), key_id

    async def _sealed(
        self, key: str, record: Record, key_id: str, *, expected: str | None, lease: float
    ) -> str:
        data, taken, inner = self._sealed_blob(key, record, key_id, expected)
        return _tagged(await self._write_blob(key, data, expected=inner, lease=lease), taken)

    def _sealed_blob(
        self, key: str, record: Record, key_id: str, expected: str | None
    ) -> tuple[bytes, str, str | None]:
        """Seal a record; returns the blob, what it is sealed with, and the adapter's own version to replace."""
        data, taken = self._sealer.seal(encode_record(record, key), _purpose(key), key_id)
        return data, taken, None if expected is None else _split(expected)[0]


class ClaimStore(RecordStore):
    """A `RecordStore` that also fulfils `SupportsClaims` (see there)."""

    @abstractmethod
    async def _write_due_blob(
        self, key: str, blob: bytes, *, expected: str | None, lease: float, due: float | None
    ) -> str:
        """Do what `SupportsClaims.write_due` says."""

    @abstractmethod
    async def _claim_blobs(
        self, prefix: str, claim: Claim, *, most: int, lease: float
    ) -> list[tuple[str, Blob]]:
        """Do what `SupportsClaims.claim` says."""

    async def _write_blob(self, key: str, blob: bytes, *, expected: str | None, lease: float) -> str:
        return await self._write_due_blob(key, blob, expected=expected, lease=lease, due=None)

    async def write_due(
        self, key: str, record: Record, *, expected: str | None, lease: float = 0.0, due: float | None
    ) -> str:
        """See `SupportsClaims.write_due`."""
        key_id = self._sealer.first if expected is None else _split(expected)[1]
        data, taken, inner = self._sealed_blob(key, record, key_id, expected)
        return _tagged(await self._write_due_blob(key, data, expected=inner, lease=lease, due=due), taken)

    async def claim(
        self, prefix: str, instance: str, *, most: int, lease: float, now: float
    ) -> list[Claimed]:
        """See `SupportsClaims.claim`."""
        claim = Claim(new_id(), instance, now, version=new_id())
        found = []
        for key, blob in await self._claim_blobs(prefix, claim, most=most, lease=lease):
            with suppress(RecordUnreadable):
                found.append(Claimed(key, self._held(key, blob)))
        return found


def _purpose(key: str) -> str:
    return f"record {key}"


def _tagged(version: str, key_id: str) -> str:
    return f"{version}@{key_id}" if key_id else version


def _split(version: str) -> tuple[str, str]:
    inner, _, key_id = version.rpartition("@")
    return (inner, key_id) if is_key_id(key_id) else (version, "")


class _Marked(msgspec.Struct):
    """What records of every schema have."""

    schema: int = 0
    key: str = ""
    """Where it belongs; empty in what others wrote there."""


def read_blob(blob: bytes, *, key: str, place: str) -> Record:
    """Decode what a store holds under `key`; `place` names the store in the message.

    Raises `RecordUnreadable` for anything that is not a record, for a record of a newer schema (what it says may
    mean something else by now) and for one that belongs under another key: two tokens with one refresh token would
    burn it.
    """
    record, marked = _decode(blob), _marked(blob)
    if record is not None and record.schema <= SCHEMA_VERSION and marked.key in {"", key}:
        return record
    # Not raised while msgspec's error is handled: it may quote a piece of the blob, and would come along.
    if marked.schema > SCHEMA_VERSION:
        reason = (
            f"was written by a newer version (schema {marked.schema}; this one reads up to {SCHEMA_VERSION})"
        )
        remedy = "run that version again"
    elif record is not None:
        reason = "is a copy of another token's record"
        remedy = "restore what belongs there, or remove it; `token-sidecar store rename` gives a record another key"
    else:
        reason = "is damaged, or was edited by hand"
        remedy = (
            "restore it from a backup, or remove it there: a daemon that runs writes again what it knows of it, "
            "else seed the token again"
        )
    raise RecordUnreadable(f"the record {key} in {place} {reason}; it is left untouched: {remedy}")


def conflict(key: str, place: str, *, expected: str | None) -> Conflict:
    """Say that the record is not the one that was read."""
    if expected is None:
        return Conflict(f"the record {key} in {place} exists already; read it again and decide anew")
    return Conflict(
        f"the record {key} in {place} was changed since it was read; read it again and decide anew"
    )


def _decode(blob: bytes) -> Record | None:
    try:
        return decode_record(blob)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None


def _marked(blob: bytes) -> _Marked:
    try:
        return msgspec.json.decode(blob, type=_Marked)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _Marked()
