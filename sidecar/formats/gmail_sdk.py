"""`gmail-sdk`: the token file of the PyPI package gmail-sdk-ldraney 0.1.3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.formats.json import PLAIN
from sidecar.formats.values import demanded_expiry, read_object, scope_of, write_object

if TYPE_CHECKING:
    from sidecar.formats.contents import Contents
    from sidecar.ports import Publication

KEYS = frozenset(
    {
        "access_token",
        "expires_in",
        "refresh_token",
        "scope",
        "token_type",
        "refresh_token_expires_in",
        "expires_at",
    }
)


class GmailSdk:
    """The SDK refreshes by itself and writes the file in place once `expires_at` is less than 300 s away.

    So a token that never expires, or of which nobody knows when it does, gets an `expires_at` in the year
    9999. `refresh_token_expires_in` counts from the same moment as `expires_in`, and is omitted where no
    deadline is known, as Google does.
    """

    name = "gmail-sdk"
    carries_expiry = True
    carries_refresh = True

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """See `Format.encode`."""
        access = publication.access
        refresh = publication.refresh if include_refresh_token else None
        expires_at = demanded_expiry(access, can_refresh=refresh is not None)
        members: dict[str, Any] = {
            "access_token": access.value,
            "expires_in": max(0, int(expires_at - access.issued_at)),
            "refresh_token": refresh.value if refresh else "",
            "scope": scope_of(publication) or "",
            "token_type": access.token_type,
        }
        if publication.refresh is not None and publication.refresh.expires_at is not None:
            left = publication.refresh.expires_at - access.issued_at
            members["refresh_token_expires_in"] = max(0, int(left))
        return write_object({**members, "expires_at": float(expires_at)})

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`."""
        return PLAIN.contents(read_object(data))
