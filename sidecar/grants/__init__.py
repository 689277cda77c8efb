"""Ways of obtaining access tokens: one small class and one file each.

A new grant is a class on the `Grant` contract in `ports.py` and a line in `_open`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config.settings import TokenSettings
from sidecar.grants.endpoint import TokenEndpoint
from sidecar.ports import Grant
from sidecar.profile import GrantType, Profile

if TYPE_CHECKING:
    from sidecar.clients.http import HttpClient
    from sidecar.clients.shared import SharedClients
    from sidecar.grants.discovery import Issuers


def open_grant(
    settings: TokenSettings,
    profile: Profile,
    http: HttpClient,
    issuers: Issuers | None = None,
    clients: SharedClients | None = None,
) -> Grant:
    """Make the grant of a token, whose profile has the token's own `grant` applied already.

    `issuers` find the endpoint of a profile that names an issuer alone; `clients` are the daemon's. Reads no file
    of the client yet. Raises `ConfigError` when settings and profile cannot make one.
    """

    def made(found: Profile) -> Grant:
        grant = _open(settings, found, http)
        if clients is not None and isinstance(grant, TokenEndpoint):
            grant.share(clients)
        return grant

    if issuers is None or profile.token_url or not profile.issuer:
        return made(profile)
    from sidecar.grants.discovery import DiscoveredGrant

    issuer = issuers.issuer(profile.issuer)
    return DiscoveredGrant(settings, profile, issuer, made)


def _open(settings: TokenSettings, profile: Profile, http: HttpClient) -> Grant:
    match profile.grant:
        case GrantType.REFRESH_TOKEN:
            from sidecar.grants.refresh_token import RefreshTokenGrant

            return RefreshTokenGrant(settings, profile, http)
        case GrantType.CLIENT_CREDENTIALS:
            from sidecar.grants.client_credentials import ClientCredentialsGrant

            return ClientCredentialsGrant(settings, profile, http)
        case GrantType.JWT_BEARER:
            from sidecar.grants.jwt_bearer import JwtBearerGrant

            return JwtBearerGrant(settings, profile, http)
        case GrantType.GITHUB_INSTALLATION:
            from sidecar.grants.github_installation import GitHubInstallationGrant

            return GitHubInstallationGrant(settings, profile, http)
        case GrantType.TOKEN_EXCHANGE:
            from sidecar.grants.token_exchange import TokenExchangeGrant

            return TokenExchangeGrant(settings, profile, http)
        case GrantType.LIVING_TOKEN:
            from sidecar.grants.living_token import LivingTokenGrant

            return LivingTokenGrant(settings, profile, http)
