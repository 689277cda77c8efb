"""What every store says alike: how a blob becomes a record, and what a lost race is called."""

from __future__ import annotations

import msgspec

from sidecar.errors import Conflict, RecordUnreadable
from sidecar.tokens import SCHEMA_VERSION, Record, decode_record


class _Marked(msgspec.Struct):
    """The one field that records of every schema have."""

    schema: int = 0


def read_blob(blob: bytes | None, *, key: str, place: str) -> Record:
    """Decode what a store holds under `key`; `place` names the store in the message.

    Raises `RecordUnreadable` for anything that is not a record, or a record of a newer schema: writing that
    back would drop what this version does not know.
    """
    record = _decode(blob or b"")
    if record is not None and record.schema <= SCHEMA_VERSION:
        return record
    # Not raised while msgspec's error is handled: it may quote a piece of the blob, and would come along.
    written = _schema_of(blob or b"")
    if written > SCHEMA_VERSION:
        reason = f"was written by a newer version (schema {written}; this one reads up to {SCHEMA_VERSION})"
        remedy = "run that version again"
    else:
        reason = "is damaged, or was edited by hand"
        remedy = "restore it from a backup, or remove it there and seed the token again"
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


def _schema_of(blob: bytes) -> int:
    try:
        return msgspec.json.decode(blob, type=_Marked).schema
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return 0
