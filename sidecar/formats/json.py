"""`json`: a JSON object with the members that `fields` selects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.errors import FormatError
from sidecar.formats import fields as all_fields
from sidecar.formats.values import read_object, write_object

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.settings import JsonField
    from sidecar.formats.contents import Contents
    from sidecar.ports import Publication


class JsonObject:
    """Without `fields`: access_token, token_type, expires_at, scope, and refresh_token where it is included.

    Members that were selected are always there; null says that the value is unknown or, for an expiry, never.
    """

    name = "json"

    def __init__(self, fields: Mapping[str, str | JsonField] | None = None) -> None:
        """Take `fields`: our value's name → the member's name, or its name and type."""
        self._chosen = fields is not None
        self._members = all_fields.chosen(fields or {field: field for field in all_fields.DEFAULT})
        self.carries_expiry = "expires_at" in self._members
        self.carries_refresh = "refresh_token" in self._members or not self._chosen

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """See `Format.encode`."""
        values = all_fields.values(publication, include_refresh_token=include_refresh_token)
        members = dict(self._members)
        if include_refresh_token and not self._chosen:
            members["refresh_token"] = ("refresh_token", "string")
        return write_object(
            {name: all_fields.write(values[field], kind) for field, (name, kind) in members.items()}
        )

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`."""
        return self.contents(read_object(data))

    def contents(self, found: Mapping[str, Any]) -> Contents:
        """Read the members under their configured names, and what else libraries are known to write."""
        if "error" in found and not {"access_token", *(name for name, _ in self._members.values())} & set(
            found
        ):
            raise FormatError("an error answer of a provider, not a token")
        return all_fields.contents(found, self._members)


PLAIN = JsonObject()
"""Reads every member under its usual name."""
