"""The token exchange (RFC 8693): another token, which somebody else keeps fresh in a file, is traded in."""

from __future__ import annotations

import os
from pathlib import Path

from sidecar.clients.http import HttpClient
from sidecar.config.settings import TokenSettings
from sidecar.errors import ConfigError, NotSent
from sidecar.files import UnfitFile, read_small
from sidecar.grants.endpoint import TokenEndpoint
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import Profile
from sidecar.tokens import RefreshToken, fingerprint

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"


class TokenExchangeGrant(TokenEndpoint):
    """Reads the subject token for each request anew; a refresh token in the answer is not used (RFC 8693 §2.2.1)."""

    uses_refresh_token = False

    def __init__(self, settings: TokenSettings, profile: Profile, http: HttpClient) -> None:
        """Raises `ConfigError` without a subject token."""
        super().__init__(settings, profile, http)
        if settings.subject_token is None:
            raise ConfigError("subject_token: is missing; name the file with the token that is traded in")
        self._subject = settings.subject_token
        self._scope = " ".join(settings.scopes)

    @property
    def files(self) -> tuple[Path, ...]:
        return (*super().files, self._subject.file)

    def credentials_fingerprint(self) -> str:
        try:
            shown = self._token()
        except NotSent as error:
            shown = str(error)
        return fingerprint(f"{super().credentials_fingerprint()} {shown}")

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        del refresh  # the grant has none: the subject token is as good, and always there
        members = {
            "grant_type": GRANT_TYPE,
            "subject_token": self._token(),
            "subject_token_type": self._subject.type,
            "scope": self._scope,
            **self._target,
        }
        return await self.request(members, gate, send_timeout)

    def _token(self) -> str:
        path = self._subject.file
        token, problem = "", "is empty; whoever keeps it fresh has to write a token into it"
        try:
            # Kubernetes mounts projected tokens behind links.
            token = read_small(path, follow=True).data.decode("utf-8-sig").strip()
        except FileNotFoundError:
            problem = "does not exist; mount the token there, or correct the path"
        except UnfitFile as unfit:
            problem = f"{unfit}; name the file with the token alone"
        except OSError as error:
            problem = (
                f"cannot be read ({os.strerror(error.errno or 0).lower()}); let uid {os.geteuid()} read it"
            )
        except UnicodeDecodeError:
            problem = "is not text; name the file with the token alone"
        if token and not (token.isprintable() and " " not in token):
            token, problem = "", "holds more than a token; name the file with the token alone"
        if not token:
            # Raised out here, so that it is not chained to an error that quotes the file.
            raise NotSent(f"subject_token {path}: {problem}", misconfigured=True)
        return token


_: type[Grant] = TokenExchangeGrant
