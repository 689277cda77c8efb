"""`json`: a JSON object with the members that `fields` selects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.errors import FormatError
from sidecar.formats.fields import Selection
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
        self._selection = Selection(fields, named=str)
        self.carries_expiry = self._selection.carries_expiry
        self.carries_refresh = self._selection.carries_refresh

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """See `Format.encode`."""
        members = self._selection.written(publication, include_refresh_token=include_refresh_token)
        return write_object(members)

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`."""
        return self.contents(read_object(data))

    def contents(self, found: Mapping[str, Any]) -> Contents:
        """Read the members under their configured names, and what else libraries are known to write."""
        if "error" in found and not {"access_token", *self._selection.names} & set(found):
            raise FormatError("an error answer of a provider, not a token")
        return self._selection.contents(found)


PLAIN = JsonObject()
"""Reads every member under its usual name."""
