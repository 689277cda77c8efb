"""`google-authorized-user`: what google-auth's `Credentials.from_authorized_user_file` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.formats.contents import Contents
from sidecar.formats.values import (
    demanded_expiry,
    iso8601,
    read_object,
    scope_of,
    text,
    time_of,
    words,
    write_object,
)

if TYPE_CHECKING:
    from sidecar.ports import Publication


class GoogleAuthorizedUser:
    """google-auth demands the keys `refresh_token`, `client_id` and `client_secret`; empty strings do.

    Without `expiry` it takes the token for expired, so one that never expires, or of which nobody knows when
    it does, expires in the year 9999. `type` lets the file serve as `GOOGLE_APPLICATION_CREDENTIALS` as well.
    The client's secret is never written, so a reader can't refresh with this file alone.
    """

    name = "google-authorized-user"
    carries_expiry = True
    carries_refresh = True

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """See `Format.encode`."""
        refresh = publication.refresh if include_refresh_token else None
        scope = scope_of(publication)
        # False: without the client's secret the reader can't refresh, whatever else it is given.
        expires_at = demanded_expiry(publication.access, can_refresh=False)
        members: dict[str, Any] = {
            "type": "authorized_user",
            "token": publication.access.value,
            "refresh_token": refresh.value if refresh else "",
            "token_uri": publication.token_url,
            "client_id": publication.client_id,
            "client_secret": "",
        }
        if scope is not None:
            members["scopes"] = scope.split()
        return write_object({**members, "expiry": iso8601(expires_at)})

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`."""
        members = read_object(data)
        return Contents(
            access_token=text(members, "token"),
            refresh_token=text(members, "refresh_token"),
            expires_at=time_of(members, ("expiry",)),
            scope=words(members, "scopes"),
        )
