"""The values that a token file can hold, and how each is written: shared by the formats that let a user choose."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sidecar.formats.contents import Contents
from sidecar.formats.values import (
    duration_of,
    iso8601,
    iso8601_naive,
    known_expiry,
    scope_of,
    text,
    time_of,
    words,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    Kind.TIME: ("integer", "number", "string", "milliseconds", "iso8601", "iso8601_naive"),
    Kind.DURATION: ("integer", "number", "string"),
}
"""The types that each sort can be written as; the first is the default."""

DEFAULT = ("access_token", "token_type", "expires_at", "scope")
"""What is written where nothing was chosen."""

Value = str | float | None


class Selection:
    """Which values a file holds, each under its name there: those that were chosen, or else `DEFAULT`."""

    def __init__(self, fields: Mapping[str, str | JsonField] | None, named: Callable[[str], str]) -> None:
        """Take `fields`: our value's name → its name there, or that and its type. `named` gives the usual name."""
        self._named = named
        self._chosen = fields is not None
        self._members = _placed(fields or {field: named(field) for field in DEFAULT})
        self.carries_expiry = "expires_at" in self._members
        self.carries_refresh = "refresh_token" in self._members or not self._chosen

    @property
    def names(self) -> set[str]:
        """The names there."""
        return {name for name, _ in self._members.values()}

    def written(self, publication: Publication, *, include_refresh_token: bool) -> dict[str, Value]:
        """Return what to write, by its name there; a refresh token that is included needs no choosing."""
        held = values(publication, include_refresh_token=include_refresh_token)
        members = dict(self._members)
        if include_refresh_token and not self._chosen:
            members["refresh_token"] = (self._named("refresh_token"), "string")
        return {name: write(held[field], kind) for field, (name, kind) in members.items()}

    def contents(self, found: Mapping[str, Any]) -> Contents:
        """Read what was found, under the chosen names and under those that libraries are known to write."""
        return contents(found, self._members)


def _placed(fields: Mapping[str, str | JsonField]) -> dict[str, tuple[str, str]]:
    """Work out where each field goes: our name → the name it has there, and the type it is written as."""
    members = {}
    for field, member in fields.items():
        name, written_as = (member, None) if isinstance(member, str) else (member.name, member.type)
        members[field] = (name, written_as or TYPES[FIELDS[field]][0])
    return members


def values(publication: Publication, *, include_refresh_token: bool) -> dict[str, Value]:
    """Return every field's value; None: unknown or, for an expiry, never. Times are Unix seconds."""
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


def write(value: Value, written_as: str) -> Value:
    """Write a value as one of the types; times are rounded down, so that nobody believes in more than there is."""
    if value is None or isinstance(value, str):
        return value
    match written_as:
        case "iso8601":
            return iso8601(value)
        case "iso8601_naive":
            return iso8601_naive(value)
        case "number":
            return float(value)
        case "milliseconds":
            return int(value * 1000)
        case "string":
            return str(int(value))
        case _:
            return int(value)


def contents(found: Mapping[str, Any], members: Mapping[str, tuple[str, str]]) -> Contents:
    """Read members under the names that were chosen for them, and under those that libraries are known to write."""
    known: dict[str, Any] = dict(found)
    for field, (name, _) in members.items():
        if name in found:
            known[field] = found[name]
    return Contents(
        access_token=text(known, "access_token"),
        token_type=text(known, "token_type"),
        scope=words(known, "scope"),
        # `expiry` is golang/oauth2's name.
        expires_at=time_of(known, ("expires_at", "expiry")),
        expires_in=duration_of(known, ("expires_in",)),
        created_at=time_of(known, ("created_at", "issued_at")),
        refresh_token=text(known, "refresh_token"),
        refresh_expires_at=time_of(known, ("refresh_token_expires_at",)),
        # As Google and LinkedIn, Keycloak, and Intuit call it.
        refresh_expires_in=duration_of(
            known, ("refresh_token_expires_in", "refresh_expires_in", "x_refresh_token_expires_in")
        ),
    )
