"""Exchanging an access token for a longer-lived or newer one, for as long as it lives (Facebook, Instagram, Threads).

Source: developers.facebook.com/docs/facebook-login/guides/access-tokens/get-long-lived (November 2026).
"""

from __future__ import annotations

from sidecar.clients.http import HttpClient
from sidecar.config.settings import TokenSettings
from sidecar.errors import NotSent
from sidecar.grants.endpoint import TokenEndpoint
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import Profile
from sidecar.tokens import RefreshToken

NAME = "fb_exchange_token"
"""Facebook's name for both the grant and its token; others go into `extra_params.grant_type` and `param_names`."""


class LivingTokenGrant(TokenEndpoint):
    """Sends the living access token, which the record holds as its refresh token. One that has ended is of no use."""

    uses_refresh_token = True

    def __init__(self, settings: TokenSettings, profile: Profile, http: HttpClient) -> None:
        super().__init__(settings, profile, http)
        self._type = profile.extra_params.get("grant_type", NAME)

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        if refresh is None:
            raise NotSent("there is no living access token to send", misconfigured=True)
        return await self.request({"grant_type": self._type, NAME: refresh.value}, gate, send_timeout)


_: type[Grant] = LivingTokenGrant
