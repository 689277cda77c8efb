"""Each provider, as far as can be told without using anything up.

What is sent: the look-up of the issuer's metadata, and one GET of the token endpoint without parameters, client or
token. A GET is safe (RFC 9110 §9.2.1), and a token endpoint takes only POST (RFC 6749 §3.2); where a profile's
requests are GETs, one without parameters asks for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from sidecar import answers
from sidecar.cli import common
from sidecar.cli.doctor.lines import Check
from sidecar.clients.http import Open, Request
from sidecar.clients.reach import Host, host_of
from sidecar.errors import CallError, ConfigError, NotSent
from sidecar.grants import open_grant
from sidecar.grants.client import ClientIdentity
from sidecar.grants.discovery import completed, kept, published
from sidecar.grants.endpoint import origin
from sidecar.observers.log import SKEW_WORTH_A_WARNING
from sidecar.outcomes import SUSPICIOUS_SKEW
from sidecar.ports import Grade

if TYPE_CHECKING:
    from sidecar.cli.doctor.examination import Examination
    from sidecar.cli.doctor.lines import Line
    from sidecar.clients.http import ClientCertificate
    from sidecar.grants.discovery import Metadata
    from sidecar.ports import Answer, Grant
    from sidecar.profile import Profile

SEND_LIMIT = 5.0
"""Seconds until the request is sent."""
CERTIFICATE_SOON = 7 * 86400.0
"""Seconds before its end from which on a server's certificate is worth a warning: it should be renewed by then."""


async def providers(exam: Examination) -> list[Line]:
    """Look at every provider, all at once; tokens that have one in common share its lines."""
    groups: dict[tuple[str, str, str | None], list[str]] = {}
    for name, profile in exam.settings.profiles.items():
        place = (profile.issuer, profile.token_url, exam.settings.entries[name].installation)
        groups.setdefault(place, []).append(name)
    found: dict[str, list[Line]] = {}

    async def look(names: list[str]) -> None:
        found[names[0]] = await _provider(exam, names)

    async with anyio.create_task_group() as tasks:
        for names in groups.values():
            tasks.start_soon(look, names)
    return [line for names in groups.values() for line in found[names[0]]]


async def _provider(exam: Examination, names: list[str]) -> list[Line]:
    name = names[0]
    lines: list[Line] = []
    profile, token = exam.settings.profiles[name], exam.settings.entries[name]
    metadata: Metadata | None = None
    if profile.issuer:
        metadata, lines = await _metadata(exam, profile)
    if metadata is not None:
        profile = completed(profile, token.client, metadata)
    if not profile.token_url:
        return lines
    try:
        grant = open_grant(token, profile, exam.http)
    except ConfigError as error:
        return [*lines, Check("token endpoint", name).error(error)]
    lines.append(_endpoints(profile, names))
    lines += _bound(exam, grant, names)
    host = host_of(grant.token_url)
    way = await _connection(host, exam.clock.wall())
    lines += way
    if any(line.finding.grade is Grade.FAILED for line in way):
        return [*lines, Check("token endpoint", host.place).skipped("it can't be reached, see above")]
    return [*lines, *await _answer(exam, grant.token_url, host, name)]


# The issuer.


async def _metadata(exam: Examination, profile: Profile) -> tuple[Metadata | None, list[Line]]:
    """Ask the issuer; where it is away, go by what the daemon found."""
    check = Check("metadata", profile.issuer)
    known = kept(exam.settings.state_dir, profile.issuer)
    try:
        metadata = await published(profile.issuer, exam.http)
    except NotSent as error:
        return (known.metadata if known is not None else None), [_failure(check, error)]
    lines = [check.ok(f"published; the token endpoint is {metadata.token_endpoint}")]
    named = profile.token_url
    if named and named != metadata.token_endpoint:
        text = f"names another token endpoint than the configuration: {metadata.token_endpoint}, not {named}"
        lines = [check.warning(text, "correct token_url, or leave it out")]
    elif known is not None and origin(known.metadata.token_endpoint) != origin(metadata.token_endpoint):
        text = f"the token endpoint moved from {known.metadata.token_endpoint} to {metadata.token_endpoint}"
        lines = [check.warning(text, "if the provider says so too: token-sidecar store rebind NAME")]
    return metadata, lines


def _endpoints(profile: Profile, names: list[str]) -> Line:
    check = Check("endpoints", ", ".join(names))
    places = {
        "authorization": profile.authorization_url,
        "device authorization": profile.device_authorization_url,
        "revocation": profile.revocation_url,
        "introspection": profile.introspection_url,
    }
    known = ["token", *(what for what, url in places.items() if url)]
    text = f"known: {', '.join(known)}"
    if profile.needs_refresh_token and not (places["authorization"] or places["device authorization"]):
        remedy = "name authorization_url in the provider's profile, or its issuer"
        return check.warning(f"{text}; not where a human consents", remedy)
    return check.ok(text)


def _bound(exam: Examination, grant: Grant, names: list[str]) -> list[Line]:
    """Find refresh tokens that were given for another place, where they are never sent."""
    lines = []
    for name in names:
        held = (exam.held or {}).get(name)
        bound = held.record.endpoint if held is not None else ""
        if bound and bound != grant.endpoint:
            text = f"its refresh token is bound to {bound}, and {grant.endpoint} is configured"
            remedy = (
                f"if the provider moved: token-sidecar store rebind {name}; else correct the configuration"
            )
            lines.append(Check("endpoint", name).failed(text, remedy))
    return lines


# The way there.


async def _connection(host: Host, now: float) -> list[Line]:
    name, connection = Check("name", host.place), Check("connection", host.place)
    certificate = Check("certificate", host.place)
    if host.proxied:
        text = "HTTPS_PROXY leads through a proxy, which looks up the name and connects"
        return [name.skipped(text)]
    lines = []
    try:
        lines.append(name.ok(f"resolves to {', '.join(await host.addresses())}"))
        stream = await host.connect()
    except NotSent as error:
        return [*lines, _failure(connection if lines else name, error)]
    async with stream:
        lines.append(connection.ok(f"port {host.port} answers"))
        if not host.secure:
            return [*lines, certificate.skipped("plain http has none")]
        try:
            shown = await host.shake_hands(stream)
        except NotSent as error:
            return [*lines, _failure(certificate, error)]
    left = shown.ends - now if shown.ends is not None else float("inf")
    text = f"verifies, good for {common.span(left)}, {shown.version}" if left < float("inf") else "verifies"
    if left < CERTIFICATE_SOON:
        remedy = "tell the provider; it should have been renewed"
        return [*lines, certificate.warning(f"ends in {common.span(left)}", remedy)]
    return [*lines, certificate.ok(text)]


def _failure(check: Check, error: NotSent) -> Line:
    """Say what stood in the way: what waiting does not cure is a failure, the rest is temporary."""
    text, _, remedy = str(error).partition("; ")
    if error.misconfigured:
        return check.failed(text, remedy)
    return check.failed(
        text, remedy or "look at the network, DNS and the provider's status page", exit_code=4
    )


# The token endpoint.


async def _answer(exam: Examination, token_url: str, host: Host, name: str) -> list[Line]:
    check = Check("token endpoint", host.place)
    request = Request(token_url, method="GET", certificate=_certificate(exam, name))
    try:
        answer = await exam.http.send(request, gate=Open(), send_timeout=SEND_LIMIT)
    except NotSent as error:
        return [_failure(check, error)]
    except CallError as error:
        return [check.failed(str(error), "look at the provider's status page", exit_code=4)]
    return [_judged(check, answer), _clock(Check("clock", host.place), answer)]


def _certificate(exam: Examination, name: str) -> ClientCertificate | None:
    """Return what a host that asks for a certificate wants to see before it answers anything."""
    try:
        identity = ClientIdentity(
            exam.settings.entries[name].client, exam.settings.profiles[name], exam.clock
        )
        return identity.credentials().certificate
    except ConfigError:
        return None


def _judged(check: Check, answer: Answer) -> Line:
    status, kind = answer.status, answer.headers.get("content-type", "")
    told = f"HTTP {status} to a GET that asks for nothing"
    if status >= 500:  # noqa: PLR2004
        return check.failed(told, "look at the provider's status page", exit_code=4)
    if 300 <= status < 400:  # noqa: PLR2004
        text = f"{told}, a redirect, which no token request follows"
        return check.warning(text, "is token_url right, and does a proxy or portal stand before it?")
    if status == 200 and "html" in kind:  # noqa: PLR2004
        text = f"{told}, with a web page"
        return check.warning(text, "is token_url right, and does a proxy or portal stand before it?")
    return check.ok(f"answers: {told}")


def _clock(check: Check, answer: Answer) -> Line:
    skew = answers.skew(answer)
    if skew is None:
        return check.skipped("the answer has no Date")
    apart = f"the provider's clock is {common.span(abs(skew))} {'ahead' if skew > 0 else 'behind'}"
    remedy = "correct this machine's clock (NTP), if it isn't the provider's"
    if abs(skew) >= SUSPICIOUS_SKEW:
        return check.failed(apart, remedy)
    if abs(skew) >= SKEW_WORTH_A_WARNING:
        return check.warning(apart, remedy)
    return check.ok("agrees with the provider's" if not skew else apart)
