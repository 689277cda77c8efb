"""Ways of obtaining access tokens: one small class and one file each.

A new grant is a class on the `Grant` contract in `ports.py` and a line in `open_grant`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.config.settings import TokenSettings
from sidecar.ports import Grant
from sidecar.profile import GrantType, Profile

if TYPE_CHECKING:
    from sidecar.clients.http import HttpClient


def open_grant(settings: TokenSettings, profile: Profile, http: HttpClient) -> Grant:
    """Make the grant of a token, whose profile has the token's own `grant` applied already.

    Reads no file yet. Raises `ConfigError` when settings and profile cannot make one.
    """
    match profile.grant:
        case GrantType.REFRESH_TOKEN:
            from sidecar.grants.refresh_token import RefreshTokenGrant

            return RefreshTokenGrant(settings, profile, http)
        case GrantType.CLIENT_CREDENTIALS:
            from sidecar.grants.client_credentials import ClientCredentialsGrant

            return ClientCredentialsGrant(settings, profile, http)
        case kind:
            raise NotImplementedError(kind)
