"""The authorization code flow with a proof key (RFC 6749 §4.1, RFC 7636 S256), for one consent."""

from __future__ import annotations

import base64
import hashlib
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from sidecar.enrol import id_token
from sidecar.enrol.provider import problem
from sidecar.errors import ConsentFailed, ConsentRefused, TemporarilyUnavailable

if TYPE_CHECKING:
    from sidecar.enrol.provider import Provider
    from sidecar.ports import Seeding

MOST_MEMBERS = 32
LONGEST_ANSWER = 16 * 1024
"""Characters of a redirect's query."""


class NotOurs(ConsentFailed):
    """This is no answer to the consent that is waited for: its `state` is missing or wrong, or was used before."""


class Authorization:
    """One request for consent, good for one answer."""

    def __init__(
        self, provider: Provider, *, redirect_uri: str, scopes: tuple[str, ...], state: str = ""
    ) -> None:
        """`provider` was located with its `authorization_url`. `state` has to be one that nobody guesses."""
        self._provider = provider
        self._redirect_uri = redirect_uri
        self.scopes = scopes
        self._state = state or secrets.token_urlsafe(32)
        self._verifier = secrets.token_urlsafe(64)
        self._nonce = secrets.token_urlsafe(32) if "openid" in scopes else ""
        self._answered = False

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Authorization({self._provider.name}, {self._redirect_uri})"

    @property
    def url(self) -> str:
        """Where the user's browser has to go. It holds the `state`: for the user's eyes alone."""
        return self._url(self._state, _challenge(self._verifier), self._nonce)

    @property
    def shown(self) -> str:
        """The same without what makes this request the only one."""
        return self._url("...", "...", self._nonce and "...")

    def _url(self, state: str, challenge: str, nonce: str) -> str:
        provider, profile = self._provider, self._provider.profile
        proof = {"code_challenge": challenge, "code_challenge_method": "S256"} if profile.pkce else {}
        members = {
            "response_type": "code",
            "client_id": provider.client_id(),
            "redirect_uri": self._redirect_uri,
            "scope": provider.scope(self.scopes),
            "state": state,
            **proof,
            "nonce": nonce,
            "audience": provider.settings.audience or "",
            "resource": provider.settings.resource or "",
        }
        ours = provider.named({name: value for name, value in members.items() if value})
        parts = urlsplit(profile.authorization_url)
        # What the endpoint's own query says is kept (RFC 6749 §3.1), and what is ours nobody may change.
        query = {**dict(parse_qsl(parts.query)), **profile.authorization_params, **ours}
        return urlunsplit(parts._replace(query=urlencode(query)))

    def code(self, query: str) -> str:
        """Read the code out of a redirect's query; afterwards no other answer is taken.

        Raises `NotOurs` with everything left as it was; else `ConsentRefused`, `TemporarilyUnavailable` and
        `ConsentFailed`, and the consent is over.
        """
        told = members(query)
        state = told.get("state", "")
        if self._answered or not secrets.compare_digest(state.encode(), self._state.encode()):
            raise NotOurs
        self._answered = True
        self._check_issuer(told.get("iss"))
        if "error" in told:
            raise self._refusal(told["error"], told.get("error_description", ""))
        if not told.get("code"):
            raise ConsentFailed(
                f"{self._provider.name}: the answer holds neither a code nor an error; log in again"
            )
        return told["code"]

    def pasted(self, text: str) -> str:
        """Read the code out of what a user copied: the whole URL that the browser was sent to, or the code alone.

        A code alone has no `state`; that it was meant for us is for the proof key to say, so that without one it isn't
        taken. Raises as `code` does.
        """
        text = text.strip()
        if "?" in text or "=" in text:
            return self.code(urlsplit(text).query if "?" in text else text)
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise NotOurs("that is neither a URL with `code=` in it nor a code; copy the whole address")
        if self._answered:
            raise NotOurs
        if not self._provider.profile.pkce:
            raise NotOurs("without a proof key the code alone could be anybody's; copy the whole address")
        self._answered = True
        return text

    async def redeem(self, code: str) -> Seeding:
        """Exchange the code for the pair. Raises `ConsentFailed` and `TemporarilyUnavailable`."""
        provider = self._provider
        answer = await provider.request(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._redirect_uri,
                "code_verifier": self._verifier if provider.profile.pkce else None,
            }
        )
        seeding = provider.seeding(answer, self.scopes)
        if not self._nonce:
            return seeding
        account = id_token.check(answer, provider, nonce=self._nonce)
        return msgspec.structs.replace(seeding, account=account)

    def _check_issuer(self, told: str | None) -> None:
        """Compare who says that it answers (RFC 9207 §2.4): else one provider's code could be sent to another."""
        provider, issuer = self._provider, self._provider.profile.issuer
        if told is None and not provider.names_issuer:
            return
        if told is None or (issuer and told != issuer):
            found = f"names {problem(told)!r} as its issuer" if told else "names no issuer, though it has to"
            raise ConsentFailed(
                f"{provider.name}: the answer {found}, and not {issuer}: somebody may be mixing up providers; "
                "the code was not used, and nothing was changed"
            )

    def _refusal(self, error: str, description: str) -> Exception:
        name, title = self._provider.name, self._provider.title
        told = problem(error) + (f" ({problem(description)})" if description else "")
        match error:
            case "access_denied" | "consent_required" | "login_required" | "interaction_required":
                return ConsentRefused(f"{name}: the consent was refused: {told}; nothing was changed")
            case "server_error" | "temporarily_unavailable":
                return TemporarilyUnavailable(f"{name}: {title} can't ask for it now: {told}; try again")
            case _:
                return ConsentFailed(
                    f"{name}: {title} doesn't ask for this consent: {told}; nothing was changed"
                )


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def members(query: str) -> dict[str, str]:
    """Read a query in which nothing comes twice (RFC 6749 §3.1). Raises `NotOurs`."""
    try:
        if len(query) > LONGEST_ANSWER:
            raise NotOurs
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_MEMBERS, errors="strict")
    except ValueError:
        raise NotOurs from None
    if len({name for name, _ in pairs}) < len(pairs):
        raise NotOurs
    return dict(pairs)
