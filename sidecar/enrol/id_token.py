"""The ID token that comes along where the scope `openid` was asked for: is it the answer to our own request?

It comes from the token endpoint over TLS, so that its signature need not be looked at (OpenID Connect Core 1.0
§3.1.3.7, 6). Of all that is in it, only the account's name is kept: so that people see whose grant it is.
"""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Any

from sidecar import answers
from sidecar.errors import ConsentFailed

if TYPE_CHECKING:
    from sidecar.enrol.provider import Provider
    from sidecar.ports import Answer


LONGEST_ACCOUNT = 255


def check(answer: Answer, provider: Provider, *, nonce: str) -> str:
    """Compare the nonce, the audience, and the issuer where it is known; return the account's name.

    That is empty where the provider doesn't tell. Raises `ConsentFailed`.
    """
    document = answers.document(answer) or {}
    if "id_token" not in document:
        return ""
    claims = _claims(document["id_token"])
    told, audience = claims.get("nonce"), claims.get("aud")
    issuer = provider.profile.issuer
    wrong = ""
    if not isinstance(told, str) or not secrets.compare_digest(told.encode(), nonce.encode()):
        wrong = "does not hold the nonce of this request"
    elif provider.client_id() not in (audience if isinstance(audience, list) else [audience]):
        wrong = "is for another client"
    elif issuer and claims.get("iss") != issuer:
        wrong = "is from another issuer"
    if wrong:
        raise ConsentFailed(
            f"{provider.name}: the ID token {wrong}: the code may be somebody else's; nothing was stored"
        )
    return _account(claims)


def _account(claims: dict[str, Any]) -> str:
    """Name the user, for people: by what they know first (OpenID Connect Core 1.0 §5.1)."""
    told = (answers.printable(claims.get(claim)) for claim in ("email", "preferred_username", "sub"))
    return next((name[:LONGEST_ACCOUNT] for name in told if name), "")


def _claims(token: Any) -> dict[str, Any]:
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3:  # noqa: PLR2004
        return {}
    try:
        return answers.json_object(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))) or {}
    except ValueError:
        return {}
