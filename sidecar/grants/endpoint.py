"""What all grants of RFC 6749 share: a token endpoint, a client that authenticates there, and one request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from sidecar import outcomes
from sidecar.clients.http import HttpClient, Open, Request, Sealed
from sidecar.clients.shared import SharedClients
from sidecar.config.settings import TokenSettings
from sidecar.errors import ConfigError, NotSent
from sidecar.grants.client import ClientIdentity, Credentials
from sidecar.ports import Answer, Gate
from sidecar.profile import Profile
from sidecar.tokens import fingerprint


class TokenEndpoint:
    """The half of the `Grant` contract that does not depend on the kind of grant."""

    issuer = ""
    """The configuration names the endpoint; where it does not, see `discovery`."""

    def __init__(self, settings: TokenSettings, profile: Profile, http: HttpClient) -> None:
        """Raises `ConfigError` when the profile has no usable `token_url` or the client's settings clash."""
        self.token_url = profile.token_url
        self.endpoint = origin(profile.token_url)
        self.tell: Callable[[str], None] = silent
        self._client = ClientIdentity(settings.client, profile, http.clock)
        self._target = {"audience": settings.audience, "resource": settings.resource}
        self._profile = profile
        self._http = http

    def share(self, clients: SharedClients) -> None:
        """Ask through the daemon's own clients whoever has to be asked who the client is."""
        self._client.clients = clients

    @property
    def files(self) -> tuple[Path, ...]:
        return self._client.files

    def client_id(self) -> str:
        return self._client.credentials().id

    def credentials_fingerprint(self) -> str:
        try:
            return self._client.credentials().fingerprint
        except ConfigError as error:
            # So that files which can be read again count as a change, too.
            return fingerprint(str(error))

    async def locate(self) -> None:
        """Nothing is left to find out but, where that is kept elsewhere, who the client is."""
        await self._client.look()

    async def request(self, members: dict[str, str | None], gate: Gate, send_timeout: float) -> Answer:
        """Send one token request with these members; those that are None or empty are left out.

        They are named as the standards name them, and renamed here where the profile says so.
        """
        profile, credentials = self._profile, self._credentials()
        given = Sealed({name: value for name, value in members.items() if value})
        form, headers = credentials.authenticate(given, self.token_url, self._http.clock.wall())
        renamed = {profile.param_names.get(name, name): value for name, value in form.items()}
        request = Request(
            self.token_url,
            Sealed({**profile.extra_params, **renamed}),
            Sealed({**profile.extra_headers, **headers}),
            method=profile.method,
            body=profile.body,
            certificate=credentials.certificate,
        )
        answer = await self._http.send(request, gate=gate, send_timeout=send_timeout)
        self._learn_from(answer)
        return answer

    async def ask(self, url: str, members: dict[str, str | None], *, send_timeout: float) -> Answer:
        """Ask another endpoint of this provider, for which the standards know one shape alone (RFC 7009, RFC 8628).

        The client proves itself as it does at the token endpoint.
        """
        profile, credentials = self._profile, self._credentials()
        given = Sealed({name: value for name, value in members.items() if value})
        form, headers = credentials.authenticate(given, self.token_url, self._http.clock.wall())
        request = Request(
            url,
            Sealed({profile.param_names.get(name, name): value for name, value in form.items()}),
            Sealed({**profile.extra_headers, **headers}),
            certificate=credentials.certificate,
        )
        return await self._http.send(request, gate=Open(), send_timeout=send_timeout)

    def _learn_from(self, answer: Answer) -> None:
        """Change over to another secret if the provider refused this one: its next request shows that one."""
        if not outcomes.refuses_client(answer, self._profile):
            self._client.accepted()
        elif told := self._client.refused():
            self.tell(told)

    def _credentials(self) -> Credentials:
        try:
            return self._client.credentials()
        except ConfigError as error:
            raise NotSent(str(error), misconfigured=True) from None


def silent(reason: str) -> None:
    """Take what a human should know, where nobody listens."""
    del reason


def origin(url: str) -> str:
    """Reduce a URL to `scheme://host[:port]`, in the one spelling that records are bound to (RFC 6454 §6)."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if not host or scheme not in {"http", "https"}:
        raise ConfigError("token_url: is missing or is not an https:// URL; set it in the token's provider")
    if ":" in host:
        host = f"[{host}]"
    usual = {"http": 80, "https": 443}[scheme]
    return f"{scheme}://{host}" + ("" if port in {None, usual} else f":{port}")
