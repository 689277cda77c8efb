"""`header`: the line `Authorization: Bearer …`, as `curl -H @file` takes it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.errors import FormatError
from sidecar.formats.contents import Contents
from sidecar.formats.values import one_line, visible

if TYPE_CHECKING:
    from sidecar.ports import Publication

_PREFIX = re.compile(rb"\s*authorization:\s*bearer\s+", re.IGNORECASE)


class Header:
    """Always `Bearer` (RFC 6750 §2.1): some providers say `bot` or `User Access Token` in `token_type`."""

    name = "header"
    carries_expiry = False
    carries_refresh = False

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:  # noqa: ARG002
        """See `Format.encode`. No newline at the end, for the same reason as in `raw`."""
        return b"Authorization: Bearer " + visible(publication.access.value).encode("ascii")

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`."""
        prefix = _PREFIX.match(data)
        if prefix is None:
            raise FormatError("not a line `Authorization: Bearer …`")
        return Contents(access_token=one_line(data[prefix.end() :]))
