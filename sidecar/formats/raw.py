"""`raw`: the access token and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.formats.contents import Contents
from sidecar.formats.values import one_line, visible

if TYPE_CHECKING:
    from sidecar.ports import Publication


class Raw:
    """No newline at the end: a reader that doesn't strip would send it, one that does won't miss it."""

    name = "raw"
    carries_expiry = False
    carries_refresh = False

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:  # noqa: ARG002
        """See `Format.encode`."""
        return visible(publication.access.value).encode("ascii")

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`. A newline that somebody appended is no part of the token."""
        return Contents(access_token=one_line(data))
