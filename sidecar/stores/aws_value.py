"""A record as the value of a secret that others read: their members in clear, ours beside them.

The access and the refresh token, their expiry and scope lie under the usual names, where a backend finds them; whatever
else it keeps there stays as it is. What a record has beyond that is under one member of ours, which names both tokens
by their fingerprints: where they differ from those that are there, somebody else wrote the secret since.

What changes between two versions (an attempt, a back-off, a verdict) is told apart here, too: it holds no secret, and
belongs beside the value, since each version of a value counts.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from functools import reduce
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from sidecar import formats
from sidecar.errors import FormatError, RecordUnreadable
from sidecar.formats.values import iso8601_naive, read_object
from sidecar.stores.base import read_blob
from sidecar.tokens import Death, Record, Turn, encode_record, fingerprint, remembered

if TYPE_CHECKING:
    from sidecar.formats.contents import Contents
    from sidecar.tokens import AccessToken

MEMBER = "token_sidecar"
REPLACES = "replaces"
"""Inside of our member: id of the version that this one came after."""
NAME = "fingerprint"
"""Inside of our tokens: which one it is, in place of the token."""
BESIDE = ("attempt", "backoff", "dead", "client_id", "endpoint", "issuer", "rotates")
"""Members of a record that may change without a new version; with new turns of the history."""
LARGEST = 64_000
"""Bytes of what may lie beside a value, before it is packed: more was not written by us."""


class Found(msgspec.Struct, frozen=True):
    """What a version holds."""

    record: Record
    replaces: str = ""
    """Id of the version before it, where it is one of ours."""


def read(text: str | None, *, key: str, place: str, version: str, written_at: float) -> Found:
    """Read a record, or what somebody else left there, as a grant that begins with it.

    `version`, `written_at`: which version it is, and since when (Unix seconds). Raises `RecordUnreadable`.
    """
    try:
        members, contents = _understood(text)
    except FormatError as error:
        raise _unreadable(key, place, str(error)) from None
    ours = members.get(MEMBER)
    if ours is None:
        return Found(_begun(contents, None, key=key, place=place, version=version, written_at=written_at))
    kept = _kept(ours, members, key=key, place=place)
    refresh = fingerprint(contents.refresh_token) if contents.refresh_token else None
    if refresh != _named(ours, "refresh"):
        return Found(_begun(contents, kept, key=key, place=place, version=version, written_at=written_at))
    access = fingerprint(contents.access_token) if contents.access_token else None
    if access != _named(ours, "access"):
        # A backend that refreshed by itself: the grant is the same.
        kept = replace(kept, access=contents.access(written_at=written_at, by_receiver=True))
    return Found(kept, str(ours.get(REPLACES, "")))


def write(before: str | None, record: Record, *, key: str, replaces: str, now: float) -> str:
    """Lay a record out as the value that comes after `before`, of which everything stays that isn't ours to change."""
    access, refresh = record.access, record.refresh
    members = _members(before)
    ours = json.loads(encode_record(record, key))
    for part, token in (("access", access), ("refresh", refresh)):
        if token is not None:
            del ours[part]["value"]
            ours[part][NAME] = token.fingerprint
    told: dict[str, Any] = {
        "access_token": access.value if access is not None else None,
        "refresh_token": refresh.value if refresh is not None else None,
        **_times(access),
        "scope": (access.scope if access is not None else None) or members.get("scope"),
        "token_type": access.token_type if access is not None else None,
        "created_at": members.get("created_at") or iso8601_naive(now),
        MEMBER: {**ours, **({REPLACES: replaces} if replaces else {})},
    }
    for name, value in told.items():
        if value is None:
            members.pop(name, None)
        else:
            members[name] = value
    return json.dumps(members, allow_nan=False)


def beside(base: Record, record: Record) -> bytes | None:
    """Return what makes `record` of `base` without a secret in it, packed; None: it takes a new version."""
    old, new = _plain(base), _plain(record)
    turns = _appended(base.history, record.history)
    del old["turns"], new["turns"]
    changed = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    if turns is None or not changed <= set(BESIDE):
        return None
    delta = {name: new[name] for name in BESIDE if name in changed}
    return zlib.compress(msgspec.json.encode({**delta, **({"turns": turns} if turns else {})}), 9)


def with_beside(base: Record, packed: bytes) -> Record:
    """Undo `beside`. Raises `ValueError` for what it has not made."""
    unpacker = zlib.decompressobj()
    try:
        delta = msgspec.json.decode(unpacker.decompress(packed, LARGEST), type=dict[str, Any])
        turns = delta.pop("turns", [])
        if not unpacker.eof or not delta.keys() <= set(BESIDE):
            raise ValueError("not ours")
        members = {**_plain(base), **delta}
        record = replace(msgspec.convert(members, Record), beyond=base.beyond)
        return reduce(Record.remember, msgspec.convert(turns, list[Turn]), record)
    except (zlib.error, msgspec.MsgspecError, TypeError) as error:
        raise ValueError(type(error).__name__) from None


def _times(access: AccessToken | None) -> dict[str, Any]:
    if access is None:
        return {"expires_at": None, "expires_in": None}
    ttl = access.ttl
    return {
        "expires_at": iso8601_naive(access.expires_at) if access.expires_at is not None else None,
        "expires_in": int(ttl) if ttl is not None and ttl.is_integer() else ttl,
    }


def _understood(text: str | None) -> tuple[dict[str, Any], Contents]:
    data = (text or "").encode()
    return read_object(data), formats.seed_contents(data, "json")


def _members(text: str | None) -> dict[str, Any]:
    try:
        return read_object((text or "").encode())
    except FormatError:
        return {}


def _kept(ours: Any, members: dict[str, Any], *, key: str, place: str) -> Record:
    """Put together again what `write` took apart; the tokens are those that are there."""
    parts = dict(ours) if isinstance(ours, dict) else {}
    parts.pop(REPLACES, None)
    for part in ("access", "refresh"):
        if isinstance(parts.get(part), dict):
            token = {**parts[part], "value": members.get(f"{part}_token") or ""}
            token.pop(NAME, None)
            parts[part] = token
    return read_blob(msgspec.json.encode(parts), key=key, place=place)


def _named(ours: Any, part: str) -> str | None:
    token = ours.get(part)
    return token.get(NAME) if isinstance(token, dict) else None


def _begun(
    contents: Contents, before: Record | None, *, key: str, place: str, version: str, written_at: float
) -> Record:
    """Make the record of a grant that somebody else left; `before`: what we had there.

    Client and endpoint are those of the configuration, whatever they are, so they are left out.
    """
    access = contents.access(written_at=written_at, by_receiver=True)
    refresh = contents.refresh(written_at=written_at)
    if refresh is None and access is None:
        raise _unreadable(key, place, "there is no refresh_token in it")
    name = fingerprint(refresh.value) if refresh is not None else ""
    begun = Record(
        # The same for everybody who reads this version.
        lineage=hashlib.sha256(f"{version} {name}".encode()).hexdigest()[:32],
        access=access,
        refresh=replace(refresh, consented_at=refresh.issued_at) if refresh is not None else None,
        granted=access.scopes if access is not None else (),
        seeds=(name,) if name else (),
    )
    if before is None:
        return begun
    spent = before.spent
    held = before.refresh.fingerprint if before.refresh is not None else ""
    text = "the secret was written back with a refresh token that had been replaced"
    return replace(
        begun,
        seeds=before.seeds if name in before.seeds else (*before.seeds, *begun.seeds),
        replaced=tuple(dict.fromkeys((*before.replaced, *((held,) if held else ())))),
        orphans=before.orphans,
        history=before.history,
        dead=Death(name, "", "", written_at, text) if name in spent else None,
    )


def _plain(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_record(record))
    return found


def _appended(old: tuple[Turn, ...], new: tuple[Turn, ...]) -> tuple[Turn, ...] | None:
    """Return what was remembered since `old`; None: it is another history."""
    for count in range(len(new) + 1):
        turns = new[len(new) - count :]
        if reduce(remembered, turns, old) == new:
            return turns
    return None


def _unreadable(key: str, place: str, problem: str) -> RecordUnreadable:
    return RecordUnreadable(
        f"the record {key} in {place} can't be read: {problem}; it is left untouched: write a JSON object with a "
        "`refresh_token` there, or move AWSCURRENT back to the version before"
    )
