"""The client_credentials grant (RFC 6749 §4.4): the client itself is whom the token speaks for."""

from __future__ import annotations

from sidecar.clients.http import HttpClient
from sidecar.config.settings import TokenSettings
from sidecar.grants.endpoint import TokenEndpoint
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import Profile
from sidecar.tokens import RefreshToken


class ClientCredentialsGrant(TokenEndpoint):
    """Asks for an access token with nothing but the client's own proof; it may be repeated at will."""

    uses_refresh_token = False

    def __init__(self, settings: TokenSettings, profile: Profile, http: HttpClient) -> None:
        super().__init__(settings, profile, http)
        self._scope = " ".join(settings.scopes)

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        del refresh  # the grant has none (RFC 6749 §4.4.3)
        members = {"grant_type": "client_credentials", "scope": self._scope, **self._target}
        return await self.request(members, gate, send_timeout)


_: type[Grant] = ClientCredentialsGrant
