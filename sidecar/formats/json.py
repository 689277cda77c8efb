"""`json`: a JSON object with the members that `fields` selects."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sidecar.errors import FormatError
from sidecar.formats.contents import Contents
from sidecar.formats.values import (
    duration_of,
    iso8601,
    known_expiry,
    read_object,
    scope_of,
    text,
    time_of,
    words,
    write_object,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.settings import JsonField
    from sidecar.ports import Publication


class Kind(StrEnum):
    """What sort of value a field holds."""

    TEXT = "text"
    TIME = "time"
    DURATION = "duration"


FIELDS = {
    "access_token": Kind.TEXT,
    "token_type": Kind.TEXT,
    "expires_at": Kind.TIME,
    "expires_in": Kind.DURATION,
    "issued_at": Kind.TIME,
    "scope": Kind.TEXT,
    "refresh_token": Kind.TEXT,
    "refresh_token_expires_at": Kind.TIME,
    "refresh_token_expires_in": Kind.DURATION,
    "client_id": Kind.TEXT,
    "token_url": Kind.TEXT,
}
"""Every value that can be written, and what sort it is."""

TYPES = {
    Kind.TEXT: ("string",),
    Kind.TIME: ("integer", "number", "string", "iso8601"),
    Kind.DURATION: ("integer", "number", "string"),
}
"""The types that each sort can be written as; the first is the default."""

DEFAULT_FIELDS = ("access_token", "token_type", "expires_at", "scope")


class JsonObject:
    """Without `fields`: access_token, token_type, expires_at, scope, and refresh_token where it is included.

    Members that were selected are always there; null says that the value is unknown or, for an expiry, never.
    """

    name = "json"

    def __init__(self, fields: Mapping[str, str | JsonField] | None = None) -> None:
        """Take `fields`: our value's name → the member's name, or its name and type."""
        self._chosen = fields is not None
        self._members: dict[str, tuple[str, str]] = {}
        for field, member in (fields or {field: field for field in DEFAULT_FIELDS}).items():
            name, written_as = (member, None) if isinstance(member, str) else (member.name, member.type)
            self._members[field] = (name, written_as or TYPES[FIELDS[field]][0])
        self.carries_expiry = "expires_at" in self._members
        self.carries_refresh = "refresh_token" in self._members or not self._chosen

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """See `Format.encode`."""
        values = _values(publication, include_refresh_token=include_refresh_token)
        members = dict(self._members)
        if include_refresh_token and not self._chosen:
            members["refresh_token"] = ("refresh_token", "string")
        return write_object({name: _write(values[field], kind) for field, (name, kind) in members.items()})

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`."""
        return self.contents(read_object(data))

    def contents(self, found: Mapping[str, Any]) -> Contents:
        """Read the members under their configured names, and what else libraries are known to write."""
        members: dict[str, Any] = dict(found)
        for field, (name, _) in self._members.items():
            if name in found:
                members[field] = found[name]
        if "error" in members and "access_token" not in members:
            raise FormatError("an error answer of a provider, not a token")
        return Contents(
            access_token=text(members, "access_token"),
            token_type=text(members, "token_type"),
            scope=words(members, "scope"),
            # `expiry` is golang/oauth2's name.
            expires_at=time_of(members, ("expires_at", "expiry")),
            expires_in=duration_of(members, ("expires_in",)),
            created_at=time_of(members, ("created_at", "issued_at")),
            refresh_token=text(members, "refresh_token"),
            refresh_expires_at=time_of(members, ("refresh_token_expires_at",)),
            # As Google and LinkedIn, Keycloak, and Intuit call it.
            refresh_expires_in=duration_of(
                members, ("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in")
            ),
        )


def _values(publication: Publication, *, include_refresh_token: bool) -> dict[str, str | float | None]:
    access, refresh = publication.access, publication.refresh
    expires_at = known_expiry(access)
    ends = refresh.expires_at if refresh else None
    return {
        "access_token": access.value,
        "token_type": access.token_type,
        "expires_at": expires_at,
        "expires_in": None if expires_at is None else max(0.0, expires_at - access.issued_at),
        "issued_at": access.issued_at,
        "scope": scope_of(publication),
        "refresh_token": refresh.value if refresh and include_refresh_token else "",
        "refresh_token_expires_at": ends,
        "refresh_token_expires_in": None if ends is None else max(0.0, ends - access.issued_at),
        "client_id": publication.client_id,
        "token_url": publication.token_url,
    }


def _write(value: str | float | None, kind: str) -> str | float | None:
    if value is None or isinstance(value, str):
        return value
    if kind == "iso8601":
        return iso8601(value)
    if kind == "number":
        return float(value)
    # Rounded down, so that nobody believes a token to live longer than it does.
    return str(int(value)) if kind == "string" else int(value)


PLAIN = JsonObject()
"""Reads every member under its usual name."""
