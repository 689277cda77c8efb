"""The JWT bearer grant (RFC 7523 §2.1): a signed assertion in exchange for an access token."""

from __future__ import annotations

from sidecar.clients.http import HttpClient
from sidecar.config.settings import TokenSettings
from sidecar.grants import assertion
from sidecar.grants.endpoint import TokenEndpoint
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import Profile
from sidecar.tokens import RefreshToken

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class JwtBearerGrant(TokenEndpoint):
    """Signs for the client itself, or for the user whom it may act for; it may be repeated at will."""

    uses_refresh_token = False

    def __init__(self, settings: TokenSettings, profile: Profile, http: HttpClient) -> None:
        super().__init__(settings, profile, http)
        self._subject = settings.subject
        self._audience = settings.audience or profile.token_url
        self._scope = " ".join(settings.scopes)
        self._resource = settings.resource

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        del refresh  # the grant has none
        credentials = self._credentials()
        now = self._http.clock.wall()
        claims = assertion.claims(credentials.id, self._subject, self._audience, now)
        # Google reads the scopes in the assertion, others in the request (RFC 7521 §4.1); what somebody doesn't
        # know has to be ignored (RFC 7519 §4, RFC 6749 §3.2).
        if self._scope:
            claims["scope"] = self._scope
        members = {
            "grant_type": GRANT_TYPE,
            "assertion": credentials.signer.sign(claims),
            "scope": self._scope,
            "resource": self._resource,
        }
        return await self.request(members, gate, send_timeout)


_: type[Grant] = JwtBearerGrant
