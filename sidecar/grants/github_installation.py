"""Installation tokens of a GitHub App, for which the app signs with its private key.

https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/generating-an-installation-access-token-for-a-github-app
"""

from __future__ import annotations

from sidecar.clients.http import HttpClient, Request, Sealed
from sidecar.config.settings import TokenSettings
from sidecar.errors import ConfigError
from sidecar.grants import assertion
from sidecar.grants.endpoint import TokenEndpoint
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import Profile
from sidecar.tokens import RefreshToken

PLACE = "{installation}"


class GitHubInstallationGrant(TokenEndpoint):
    """Asks for a token of one installation; it may be repeated at will.

    The profile's `token_url` has `{installation}` where its number belongs.
    """

    uses_refresh_token = False

    def __init__(self, settings: TokenSettings, profile: Profile, http: HttpClient) -> None:
        super().__init__(settings, profile, http)
        if not settings.installation:
            raise ConfigError("installation: is missing; give the number of the GitHub App's installation")
        self.token_url = profile.token_url.replace(PLACE, settings.installation)

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        del refresh  # the grant has none
        credentials = self._credentials()
        claims = {"iss": credentials.id, **assertion.lifetime(self._http.clock.wall())}
        headers = {
            **self._profile.extra_headers,
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {credentials.signer.sign(claims)}",
        }
        request = Request(self.token_url, headers=Sealed(headers))
        return await self._http.send(request, gate=gate, send_timeout=send_timeout)


_: type[Grant] = GitHubInstallationGrant
