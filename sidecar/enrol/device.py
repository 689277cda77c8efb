"""The device flow (RFC 8628): the human consents on whatever has a browser, and we ask until it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import msgspec

from sidecar import answers
from sidecar.enrol.provider import error_code, problem
from sidecar.errors import ConsentRefused, TemporarilyUnavailable
from sidecar.tokens import OutcomeClass

if TYPE_CHECKING:
    from sidecar.enrol.provider import Provider
    from sidecar.ports import Answer, Seeding

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
INTERVAL = 5.0
"""Seconds between two questions, where the provider names none (RFC 8628 §3.2)."""
SLOWER = 5.0
"""What `slow_down` adds (§3.5)."""
LONGEST = 1800.0
"""Seconds after which nobody waits any longer, whatever the provider says."""


class Device(msgspec.Struct, frozen=True):
    """What the provider wants a human to do, and by when."""

    code: str
    """What the human enters."""
    url: str
    """Where."""
    complete_url: str
    """The same with the code in it; empty where the provider offers none."""
    expires_in: float
    interval: float
    secret: str

    def __repr__(self) -> str:
        """Hide what the pair is fetched with."""
        return f"Device({self.url}, expires_in={self.expires_in:g})"


async def begin(provider: Provider, scopes: tuple[str, ...]) -> Device:
    """Ask for a code. Raises `ConsentFailed` and `TemporarilyUnavailable`."""
    answer = await provider.ask(
        provider.profile.device_authorization_url,
        {"client_id": provider.client_id(), "scope": provider.scope(scopes)},
    )
    found = answers.document(answer) or {}
    secret, code = (answers.printable(found.get(name)) for name in ("device_code", "user_code"))
    # Google says `url` where RFC 8628 says `uri`.
    url = _page(found.get("verification_uri") or found.get("verification_url"))
    if answer.status != 200 or not (secret and code and url):  # noqa: PLR2004
        told = error_code(answer, provider.profile)
        reason = f"HTTP {answer.status}" + (f" {problem(told)}" if told else "")
        passing = answer.status >= 500 or answer.status == 429  # noqa: PLR2004
        raise provider.failure(OutcomeClass.TRANSIENT if passing else OutcomeClass.MISCONFIGURED, reason)
    return Device(
        code=code,
        url=url,
        complete_url=_page(found.get("verification_uri_complete")),
        expires_in=min(_seconds(found.get("expires_in"), LONGEST), LONGEST),
        interval=_seconds(found.get("interval"), INTERVAL),
        secret=secret,
    )


async def wait(provider: Provider, device: Device, scopes: tuple[str, ...]) -> Seeding:
    """Ask until the human has decided. Raises `ConsentRefused`, `ConsentFailed` and `TemporarilyUnavailable`."""
    interval = device.interval
    with anyio.move_on_after(device.expires_in):
        while True:
            await anyio.sleep(interval)
            try:
                # What the provider answers may be the pair: it is taken even when the time is up.
                with anyio.CancelScope(shield=True):
                    answer = await provider.request({"grant_type": GRANT_TYPE, "device_code": device.secret})
            except TemporarilyUnavailable:
                # "must unilaterally reduce their polling frequency" (§3.5)
                interval *= 2
                continue
            match error_code(answer, provider.profile):
                case "authorization_pending":
                    continue
                case "slow_down":
                    interval += SLOWER
                case "access_denied":
                    raise ConsentRefused(f"{provider.name}: the consent was refused; nothing was changed")
                case "expired_token":
                    break
                case _ if _passing(answer):
                    interval *= 2
                case _:
                    return provider.seeding(answer, scopes)
    raise TemporarilyUnavailable(f"{provider.name}: nobody consented in time; nothing was changed, try again")


def _passing(answer: Answer) -> bool:
    return answer.status >= 500 or answer.status == 429  # noqa: PLR2004


def _seconds(value: object, otherwise: float) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
    return number if 0 < number <= LONGEST else otherwise


def _page(value: object) -> str:
    """Accept what a human can be sent to."""
    text = answers.printable(value) or ""
    return text if urlsplit(text).scheme in {"https", "http"} and " " not in text else ""
