"""Taking a grant back (RFC 7009)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar import outcomes
from sidecar.enrol.provider import error_code, problem
from sidecar.errors import SidecarError, TemporarilyUnavailable, UsageError
from sidecar.tokens import OutcomeClass

if TYPE_CHECKING:
    from sidecar.enrol.provider import Provider
    from sidecar.tokens import Record


class NotRevoked(SidecarError):
    """The provider did not revoke the grant; nothing was changed."""


async def revoke(provider: Provider, record: Record) -> None:
    """End the grant that a record holds.

    A refresh token that the provider knows no more counts as revoked (RFC 7009 §2.2). Raises `UsageError` where no
    revocation endpoint is known, or the record belongs to another client or provider than the configured one;
    `TemporarilyUnavailable`, and `NotRevoked`.
    """
    await provider.locate("revocation_url")
    refresh = record.refresh
    if refresh is None:
        raise UsageError(f"{provider.name}: there is no refresh token, so nothing to revoke")
    ours = (provider.client_id(), provider.endpoint.endpoint)
    if (record.client_id, record.endpoint or ours[1]) != ours:
        raise UsageError(
            f"{provider.name}: the refresh token belongs to client {record.client_id!r} at {record.endpoint}, and the "
            f"configuration names {ours[0]!r} at {ours[1]}, to which it is not sent; correct the configuration"
        )
    hint = "access_token" if provider.profile.lives_by_itself else "refresh_token"
    answer = await provider.ask(
        provider.profile.revocation_url, {"token": refresh.value, "token_type_hint": hint}
    )
    if answer.status == 200:  # noqa: PLR2004
        return
    code = error_code(answer, provider.profile)
    if code == "invalid_token":
        return  # Google's way of saying that there is nothing left to revoke
    told = f"{provider.name}: {provider.title} answered HTTP {answer.status}" + (
        f" {problem(code)}" if code else ""
    )
    verdict = outcomes.judge(answer, provider.profile, sent=None, previous=None).outcome
    if verdict in {OutcomeClass.TRANSIENT, OutcomeClass.IN_DOUBT} and answer.status >= 400:  # noqa: PLR2004
        # 503: "the client must assume that the token still exists" (§2.2.1)
        raise TemporarilyUnavailable(f"{told}; the grant may still be alive, try again")
    if code == "unsupported_token_type":
        raise NotRevoked(f"{told}: it revokes no refresh tokens; end the consent in the account's settings")
    raise NotRevoked(f"{told}; nothing was revoked. The account's settings are the other way")
