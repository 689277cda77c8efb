"""One token's provider as a consent needs it: endpoints, client, scopes, and what its answers are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sidecar import answers, outcomes, providers
from sidecar.clients.http import Open
from sidecar.errors import (
    CallError,
    ConsentFailed,
    NotSent,
    TemporarilyUnavailable,
    UsageError,
)
from sidecar.grants.discovery import completed
from sidecar.grants.endpoint import TokenEndpoint, origin
from sidecar.ports import Seeding
from sidecar.tokens import OutcomeClass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from sidecar.clients.http import HttpClient
    from sidecar.config.settings import TokenSettings
    from sidecar.grants.discovery import Issuers
    from sidecar.ports import Answer
    from sidecar.profile import Profile

SEND_TIMEOUT = 20.0
"""Seconds for connecting and sending, while a human waits."""

LONGEST_SHOWN = 300


class Provider:
    """Asks the provider of one token on behalf of a human; `locate` comes first."""

    def __init__(
        self, name: str, settings: TokenSettings, profile: Profile, http: HttpClient, issuers: Issuers
    ) -> None:
        """Ask nobody yet; `profile` has the token's own `grant` applied."""
        self.name = name
        self.settings = settings
        self.profile = profile
        self.names_issuer = False
        """Whether the provider promised to name itself in every answer (RFC 9207 §3)."""
        self._http = http
        self._issuers = issuers
        self._endpoint: TokenEndpoint | None = None

    async def locate(self, *needed: str) -> None:
        """Find the endpoints, where the profile leaves them to its issuer.

        `needed` are the profile's fields without which there is no use in going on. Raises `UsageError` when one is
        missing all the same, `TemporarilyUnavailable` and `ConsentFailed` when the issuer can't be asked.
        """
        wanted = ("token_url", *needed)
        if self.profile.issuer and not all(getattr(self.profile, field) for field in wanted):
            await self._discover()
        for field in wanted:
            if not getattr(self.profile, field):
                raise UsageError(
                    f"{self.name}: {_WHAT[field]} of {self.title} is not known; name it as `{field}` in the token's "
                    "provider, or name the provider's `issuer`"
                )
        self._endpoint = TokenEndpoint(self.settings, self.profile, self._http)
        await self._endpoint.locate()

    async def _discover(self) -> None:
        issuer = self._issuers.issuer(self.profile.issuer)
        await issuer.look()
        if issuer.metadata is None:
            raise _gave_up(
                self.name, issuer.problem or NotSent(f"issuer {self.profile.issuer} was not asked")
            )
        found = completed(self.profile, self.settings.client, issuer.metadata)
        if self.profile.token_url:
            # As the daemon has it: whoever names the endpoint isn't told by the issuer how to prove itself there.
            found = msgspec.structs.replace(found, auth_method=self.profile.auth_method)
        self.profile = found
        self.names_issuer = issuer.metadata.authorization_response_iss_parameter_supported

    @property
    def title(self) -> str:
        """What to call the provider."""
        return title(self.profile)

    @property
    def endpoint(self) -> TokenEndpoint:
        """The token endpoint, once `locate` has found it."""
        if self._endpoint is None:
            raise UsageError(f"{self.name}: the provider's endpoints were not looked up yet")
        return self._endpoint

    def client_id(self) -> str:
        """Return the client's public identifier. Raises `ConfigError`."""
        return self.endpoint.client_id()

    def scopes(self, granted: Iterable[str] = ()) -> tuple[str, ...]:
        """List what to ask for: what the token names, else what it was granted before; and what the profile adds."""
        own = self.settings.scopes or tuple(granted)
        return tuple(dict.fromkeys((*own, *self.profile.consent_scopes)))

    def scope(self, scopes: tuple[str, ...]) -> str:
        """Write scopes as this provider wants them."""
        return self.profile.scope_separator.join(scopes)

    def named(self, members: dict[str, str]) -> dict[str, str]:
        """Call a request's members as this provider calls them."""
        return {self.profile.param_names.get(name, name): value for name, value in members.items()}

    # What is asked, and what the answers are worth

    async def request(self, members: dict[str, str | None]) -> Answer:
        """Ask the token endpoint; of several client secrets the next one is shown where one is refused.

        That costs no code: who the client is gets checked before (RFC 6749 §3.2.1). Raises what `answered` raises.
        """
        for _ in self.settings.client.secret_files[1:]:
            answer = await self.answered(self.endpoint.request(members, Open(), SEND_TIMEOUT))
            if not outcomes.refuses_client(answer, self.profile):
                return answer
        return await self.answered(self.endpoint.request(members, Open(), SEND_TIMEOUT))

    async def ask(self, url: str, members: dict[str, str | None]) -> Answer:
        """Ask another endpoint once. Raises what `answered` raises."""
        return await self.answered(self.endpoint.ask(url, members, send_timeout=SEND_TIMEOUT))

    async def answered(self, call: Awaitable[Answer]) -> Answer:
        """Wait for an answer. Raises `TemporarilyUnavailable`, and `ConsentFailed` for what waiting doesn't cure."""
        try:
            return await call
        except CallError as error:
            raise _gave_up(self.name, error) from None

    def seeding(self, answer: Answer, asked: tuple[str, ...]) -> Seeding:
        """Take the pair out of a token endpoint's answer to a consent for the scopes `asked`.

        Raises `ConsentFailed` (without a refresh token there is nothing to keep fresh) and `TemporarilyUnavailable`.
        """
        outcome = outcomes.judge(answer, self.profile, sent=None, previous=None)
        if outcome.outcome is not OutcomeClass.SUCCESS:
            raise self.failure(outcome.outcome, outcome.reason)
        if outcome.refresh is None or outcome.access is None:
            raise ConsentFailed(self._without_refresh_token(asked))
        # Omitted means: as asked for (RFC 6749 §5.1).
        scope = outcome.access.scope or " ".join(asked) or None
        return Seeding(
            refresh=outcome.refresh,
            access=msgspec.structs.replace(outcome.access, scope=scope),
            client_id=self.client_id(),
            endpoint=self.endpoint.endpoint,
        )

    def failure(self, kind: OutcomeClass, reason: str) -> TemporarilyUnavailable | ConsentFailed:
        """Make the error of an answer that is none of use."""
        told = f"{self.name}: {self.title} answered {reason}"
        if kind in {OutcomeClass.TRANSIENT, OutcomeClass.IN_DOUBT}:
            return TemporarilyUnavailable(f"{told}; nothing was changed, try again")
        hint = _HINTS.get(next((code for code in _HINTS if code in reason), ""), "")
        return ConsentFailed(f"{told}; nothing was changed{hint}")

    def _without_refresh_token(self, asked: tuple[str, ...]) -> str:
        profile = self.profile
        params = ", ".join(f"{name}: {value}" for name, value in profile.authorization_params.items())
        return (
            f"{self.name}: {self.title} gave an access token but no refresh token, so nothing was stored. "
            f"Asked for were the scopes {' '.join(asked) or '(none)'} with authorization_params {{{params}}}. "
            "Providers give one when they are asked in their way: Google for `authorization_params: {access_type: "
            "offline, prompt: consent}`, OpenID Connect for the scope offline_access (`consent_scopes`); some only at "
            "the first consent, so that this application has to be removed from the account first"
            + (f". See {profile.docs}" if profile.docs else "")
        )


def title(profile: Profile) -> str:
    """Say what to call a provider before people."""
    own = profile.title if profile.title != providers.load("generic").title else ""
    return own or profile.issuer or origin(profile.token_url)


_WHAT = {
    "token_url": "the token endpoint",
    "authorization_url": "the authorization endpoint",
    "device_authorization_url": "the device authorization endpoint",
    "revocation_url": "the revocation endpoint",
}

_HINTS = {
    "invalid_client": "; the client's id or secret is wrong, or it has to prove itself in another way (auth_method)",
    "redirect_uri_mismatch": "; name the redirect URI that is registered for this client: client.redirect_uri",
    "invalid_grant": "; the code was used, is too old, or was meant for another client or redirect URI: log in again",
    "unauthorized_client": "; this client may not use this flow: register it for it, or try the other one (--device)",
}


def _gave_up(name: str, error: CallError) -> TemporarilyUnavailable | ConsentFailed:
    told = f"{name}: {error}; nothing was changed"
    if isinstance(error, NotSent) and error.misconfigured:
        return ConsentFailed(told)
    return TemporarilyUnavailable(f"{told}, try again")


def problem(text: str) -> str:
    """Show in bounds what a provider wrote about an error."""
    return "".join(char if char.isprintable() else "?" for char in text[:LONGEST_SHOWN])


def error_code(answer: Answer, profile: Profile) -> str:
    """Return the error code of an answer; empty where there is none."""
    document = answers.document(answer) or {}
    return next(iter(answers.codes(document, profile.answer)), "")
