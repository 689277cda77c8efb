"""What a token file says, whatever its format, and the contract that every format fulfils."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from sidecar.tokens import AccessToken, ExpirySource, RefreshToken, fingerprint

if TYPE_CHECKING:
    from sidecar.ports import Publication

ASSUMED_TTL = 1800.0
"""Seconds that a token is taken to live when nobody says."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a file. Times are Unix seconds, durations seconds; None: the file does not say."""

    access_token: str | None = None
    token_type: str | None = None
    scope: str | None = None
    expires_at: float | None = None
    expires_in: float | None = None
    created_at: float | None = None
    refresh_token: str | None = None
    refresh_expires_at: float | None = None
    refresh_expires_in: float | None = None

    def __repr__(self) -> str:
        """Show fingerprints in place of the tokens."""
        access = fingerprint(self.access_token) if self.access_token else None
        refresh = fingerprint(self.refresh_token) if self.refresh_token else None
        return f"Contents(access={access}, refresh={refresh}, expires_at={self.expires_at})"

    def access(self, *, written_at: float, by_receiver: bool) -> AccessToken | None:
        """Return the access token, if there is one.

        `written_at` is the file's modification time. `by_receiver`: whoever received the token wrote the file
        then (an application that refreshed by itself), so that it anchors a lone `expires_in`, or else an
        assumed expiry (`ExpirySource.ASSUMED`). Otherwise (a mounted or copied seed) the content has to say
        when the token ends, or there is no usable one.
        """
        if self.access_token is None:
            return None
        expires_at, source = self.expires_at, ExpirySource.ANSWER
        anchor = self.created_at
        if anchor is None and by_receiver:
            anchor = written_at
        if expires_at is None and self.expires_in is not None and anchor is not None:
            expires_at = anchor + self.expires_in
        if expires_at is None and by_receiver:
            expires_at, source = written_at + ASSUMED_TTL, ExpirySource.ASSUMED
        if expires_at is None:
            return None
        received_at = self._received_at()
        issued_at = min(written_at, expires_at) if received_at is None else received_at
        return AccessToken(
            value=self.access_token,
            issued_at=issued_at,
            expires_at=expires_at,
            ttl=None if source is ExpirySource.ASSUMED else self.expires_in or expires_at - issued_at,
            expiry_source=source,
            token_type=self.token_type or "Bearer",
            scope=self.scope,
        )

    def refresh(self, *, written_at: float) -> RefreshToken | None:
        """Return the refresh token, if there is one.

        Its deadline is known when the file names it, or names a remaining life together with the time from
        which that counts. `written_at` (the file's modification time) is no such time: it only stands in as
        the age. An application that refreshes in place keeps the remaining life of the first answer, so a
        deadline that was counted from the last access token is the latest possible one.
        """
        if self.refresh_token is None:
            return None
        anchor = self.created_at if self.created_at is not None else self._received_at()
        expires_at = self.refresh_expires_at
        if expires_at is None and self.refresh_expires_in is not None and anchor is not None:
            expires_at = anchor + self.refresh_expires_in
        return RefreshToken(
            value=self.refresh_token,
            issued_at=anchor if anchor is not None else written_at,
            expires_at=expires_at,
        )

    def _received_at(self) -> float | None:
        if self.expires_at is None or self.expires_in is None:
            return None
        return self.expires_at - self.expires_in


class Format(Protocol):
    """One layout of a token file, for writing and for reading back."""

    name: str
    carries_expiry: bool
    """Whether a file of this format says when its access token ends."""
    carries_refresh: bool
    """Whether it has a place for a refresh token."""

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """Lay out a publication; the same publication always gives the same bytes.

        Raises `FormatError` for a token that this format cannot carry.
        """
        ...

    def decode(self, data: bytes) -> Contents:
        """Read a file back, also one that a client library wrote; raises `FormatError`, quoting nothing."""
        ...
