"""The refresh_token grant (RFC 6749 §6)."""

from __future__ import annotations

from sidecar.clients.http import HttpClient
from sidecar.config.settings import TokenSettings
from sidecar.errors import NotSent
from sidecar.grants.endpoint import TokenEndpoint
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import Profile
from sidecar.tokens import RefreshToken


class RefreshTokenGrant(TokenEndpoint):
    """Exchanges a refresh token, which may be used up by it."""

    uses_refresh_token = True

    def __init__(self, settings: TokenSettings, profile: Profile, http: HttpClient) -> None:
        super().__init__(settings, profile, http)
        # Omitted means: as granted. Naming what was asked for and not granted makes every refresh fail.
        self._scope = " ".join(settings.scopes) if profile.scope_on_refresh else None

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        return await self._exchange(refresh, gate, send_timeout, self._scope)

    async def call_without_scope(
        self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float
    ) -> Answer:
        return await self._exchange(refresh, gate, send_timeout, None)

    async def _exchange(
        self, refresh: RefreshToken | None, gate: Gate, send_timeout: float, scope: str | None
    ) -> Answer:
        if refresh is None:
            raise NotSent("there is no refresh token to send", misconfigured=True)
        members = {
            "grant_type": "refresh_token",
            "refresh_token": refresh.value,
            "scope": scope,
            **self._target,
        }
        return await self.request(members, gate, send_timeout)


_: type[Grant] = RefreshTokenGrant
