"""Endpoints that an issuer publishes: OpenID Connect Discovery 1.0 and RFC 8414.

What was found is kept in `state_dir`, so that a restart needs no issuer, and is asked for again every hour. It
never moves a token by itself: a record is bound to the origin that its token was got from, and the renewer
refuses any other.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
import msgspec

from sidecar.clients.http import HttpClient, Open, Request
from sidecar.config.settings import Client, TokenSettings
from sidecar.errors import CallError, ConfigError, NotSent
from sidecar.files import UnfitFile, directory, read_small, replace_file
from sidecar.grants.endpoint import origin, silent
from sidecar.ports import Answer, Gate, Grant
from sidecar.profile import AuthMethod, Profile
from sidecar.tokens import RefreshToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Clock

MAX_AGE = 3600.0
"""Seconds for which what an issuer published is used without a look."""
DOUBTED_AGE = 60.0
"""The same while the token endpoint can't be reached, or isn't there."""
RETRY, RETRY_KNOWN = 5.0, 300.0
"""Seconds for which an issuer that failed is left alone: while nothing is known of it, and when something is."""
CONNECT_LIMIT, TIME_LIMIT = 5.0, 10.0
"""Seconds for each document."""
FOLDER = "issuers"
"""Where in `state_dir` findings are kept."""
GONE = frozenset({404, 405, 410})
_OTHER_ENDPOINTS = (
    "authorization_endpoint",
    "revocation_endpoint",
    "introspection_endpoint",
    "device_authorization_endpoint",
)


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an issuer says of itself (RFC 8414 §2, OpenID Connect Discovery 1.0 §3), as far as it is of use here."""

    issuer: str
    token_endpoint: str
    authorization_endpoint: str = ""
    revocation_endpoint: str = ""
    introspection_endpoint: str = ""
    device_authorization_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = (AuthMethod.BASIC.value,)
    """Where there is no such list, RFC 8414 §2 says `client_secret_basic`."""
    authorization_response_iss_parameter_supported: bool = False
    """Whether every answer to a request for consent names its issuer (RFC 9207 §3)."""


class Kept(msgspec.Struct, frozen=True):
    """What was found, and when (Unix seconds); nothing in it is secret."""

    at: float
    metadata: Metadata


def kept(state_dir: Path, issuer: str) -> Kept | None:
    """Return what the daemon that runs there last found of an issuer."""
    try:
        found = msgspec.json.decode(read_small(_file(state_dir, issuer), follow=False).data, type=Kept)
    except (OSError, UnfitFile, msgspec.MsgspecError):
        return None
    return found if found.metadata.issuer == issuer else None


def _file(state_dir: Path, issuer: str) -> Path:
    return state_dir / FOLDER / f"{hashlib.sha256(issuer.encode()).hexdigest()[:16]}.json"


class _Unusable(Exception):
    """What is wrong with one document; the message continues a sentence after its URL."""

    def __init__(
        self, reason: str, *, absent: bool = False, passing: bool = False, unreachable: bool = False
    ) -> None:
        """`absent`: there is none; `passing`: waiting may cure it; `unreachable`: nothing answered at all."""
        super().__init__(reason)
        self.absent, self.passing, self.unreachable = absent, passing, unreachable


async def published(issuer: str, http: HttpClient) -> Metadata:
    """Ask an issuer at both places, keeping nothing. Raises `NotSent` with the reason that says more."""
    problems: list[tuple[str, _Unusable]] = []
    for place in _places(issuer):
        try:
            return _judged(await _document(place, http), issuer)
        except _Unusable as unusable:
            problems.append((place, unusable))
            if unusable.unreachable:
                break  # the other one is at the same host
    place, worst = min(problems, key=lambda found: found[1].absent)
    raise NotSent(f"issuer {issuer}: {place} {worst}", misconfigured=not worst.passing)


async def _document(place: str, http: HttpClient) -> Answer:
    reason, passing = f"did not answer in whole within {TIME_LIMIT:g} s", True
    with anyio.move_on_after(TIME_LIMIT):
        try:
            return await http.send(Request(place, method="GET"), gate=Open(), send_timeout=CONNECT_LIMIT)
        except CallError as error:
            reason = f"can't be read: {error}"
            passing = not (isinstance(error, NotSent) and error.misconfigured)
    raise _Unusable(reason, passing=passing, unreachable=True)


class Issuers:
    """The issuers of one daemon, each asked once for all its tokens."""

    def __init__(self, http: HttpClient, state_dir: Path, clock: Clock) -> None:
        """Ask nobody yet."""
        self._http, self._state_dir, self._clock = http, state_dir, clock
        self._known: dict[str, Issuer] = {}

    def issuer(self, url: str) -> Issuer:
        """Return the issuer of this URL, with what is kept of it."""
        if url not in self._known:
            self._known[url] = Issuer(url, self._http, self._state_dir, self._clock)
        return self._known[url]


class Issuer:
    """One issuer: what is known of it, and since when."""

    def __init__(self, url: str, http: HttpClient, state_dir: Path, clock: Clock) -> None:
        self.url = url
        self.metadata: Metadata | None = None
        self.problem: NotSent | None = None
        """Why the last look found nothing."""
        self._http, self._clock = http, clock
        self._path = _file(state_dir, url)
        self._looking = anyio.Lock()
        self._looked_at = self._look_at = float("-inf")
        found = kept(state_dir, url)
        if found is not None:
            self.metadata = found.metadata
            self._looked_at, self._look_at = found.at, found.at + MAX_AGE

    async def look(self) -> None:
        """Bring `metadata` up to date if it is old. Never raises: `problem` says what went wrong."""
        async with self._looking:
            if self._looked_at <= self._clock.wall() < self._look_at:
                return
            try:
                self.metadata, self.problem = await published(self.url, self._http), None
            except NotSent as problem:
                # Endpoints seldom move, so that what was found stays good while its issuer is away.
                self.problem = problem
                self._wait(RETRY if self.metadata is None else RETRY_KNOWN)
            else:
                self._wait(MAX_AGE)
                self._keep(self.metadata)

    def doubt(self) -> None:
        """Look again soon: the endpoint that was found did not answer as one."""
        self._look_at = min(self._look_at, self._looked_at + DOUBTED_AGE)

    def _wait(self, seconds: float) -> None:
        # By the wall clock, since a file remembers it.
        self._looked_at = self._clock.wall()
        self._look_at = self._looked_at + seconds

    def _keep(self, metadata: Metadata) -> None:
        # Without it the next start has to ask, which is no reason to fail now.
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with directory(self._path.parent) as folder:
                data = msgspec.json.encode(Kept(self._looked_at, metadata))
                replace_file(folder, self._path.name, data, mode=0o600)


class DiscoveredGrant:
    """A grant whose token endpoint its issuer names: stands for it before that is known, and in front of it then."""

    def __init__(
        self,
        settings: TokenSettings,
        profile: Profile,
        issuer: Issuer,
        build: Callable[[Profile], Grant],
    ) -> None:
        """`build` makes the grant of a profile that has a `token_url`."""
        self.issuer = profile.issuer
        self.tell: Callable[[str], None] = silent
        self._settings, self._profile = settings, profile
        self._issuer = issuer
        self._build = build
        self._metadata: Metadata | None = None
        # Until then it is asked for its client and its files alone.
        self._grant = self._built(msgspec.structs.replace(profile, token_url=profile.issuer))
        self._follow()

    @property
    def endpoint(self) -> str:
        return self._grant.endpoint if self._metadata else ""

    @property
    def token_url(self) -> str:
        return self._grant.token_url if self._metadata else ""

    @property
    def uses_refresh_token(self) -> bool:
        return self._grant.uses_refresh_token

    @property
    def files(self) -> tuple[Path, ...]:
        return self._grant.files

    def credentials_fingerprint(self) -> str:
        return self._grant.credentials_fingerprint()

    def client_id(self) -> str:
        return self._grant.client_id()

    async def locate(self) -> None:
        await self._issuer.look()
        self._follow()
        await self._grant.locate()

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        if self._metadata is None:
            problem = self._issuer.problem or NotSent(f"issuer {self.issuer}: was not asked yet")
            raise NotSent(str(problem), misconfigured=problem.misconfigured)
        try:
            answer = await self._grant.call(refresh, gate, send_timeout=send_timeout)
        except NotSent:
            self._issuer.doubt()
            raise
        if answer.status in GONE:
            self._issuer.doubt()
        return answer

    def _built(self, profile: Profile) -> Grant:
        grant = self._build(profile)
        grant.tell = self._pass_on
        return grant

    def _pass_on(self, reason: str) -> None:
        self.tell(reason)  # whoever is listening by then

    def _follow(self) -> None:
        metadata = self._issuer.metadata
        if metadata is not None and metadata != self._metadata:
            self._grant = self._built(completed(self._profile, self._settings.client, metadata))
            self._metadata = metadata


_: type[Grant] = DiscoveredGrant


def completed(profile: Profile, client: Client, metadata: Metadata) -> Profile:
    """Fill in what a profile leaves open; what it names stays."""
    return msgspec.structs.replace(
        profile,
        token_url=profile.token_url or metadata.token_endpoint,
        authorization_url=profile.authorization_url or metadata.authorization_endpoint,
        revocation_url=profile.revocation_url or metadata.revocation_endpoint,
        introspection_url=profile.introspection_url or metadata.introspection_endpoint,
        device_authorization_url=profile.device_authorization_url or metadata.device_authorization_endpoint,
        auth_method=_auth_method(profile, client, metadata),
    )


def _auth_method(profile: Profile, client: Client, metadata: Metadata) -> AuthMethod:
    """Choose what the client has the means for, if nobody named a method: none is ever tried out."""
    if client.auth_method is not None or "auth_method" in profile.sources:
        return profile.auth_method
    means = [AuthMethod.NONE]
    if client.certificate_file is not None:
        means = [AuthMethod.TLS]
    elif client.private_key_file is not None:
        means = [AuthMethod.PRIVATE_KEY_JWT]
    elif client.file or client.secret or client.secret_file or client.secret_files:
        means = [AuthMethod.BASIC, AuthMethod.POST, AuthMethod.SECRET_JWT]
    supported = metadata.token_endpoint_auth_methods_supported
    return next((method for method in means if method in supported), profile.auth_method)


def _places(issuer: str) -> tuple[str, str]:
    """Where an issuer's document may be: OpenID Connect Discovery 1.0 §4 appends, RFC 8414 §3 inserts."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    host = f"{parts.scheme}://{parts.netloc}"
    return (
        f"{host}{path}/.well-known/openid-configuration",
        f"{host}/.well-known/oauth-authorization-server{path}",
    )


def _judged(answer: Answer, issuer: str) -> Metadata:
    status = answer.status
    if 300 <= status < 400:  # noqa: PLR2004
        raise _Unusable(f"answered HTTP {status}, a redirect, which is not followed; correct issuer")
    if status != 200:  # noqa: PLR2004
        passing = status in {408, 425, 429} or status >= 500  # noqa: PLR2004
        way_out = "it is asked again" if passing else "correct issuer, or name token_url"
        raise _Unusable(f"answered HTTP {status}; {way_out}", absent=status in GONE, passing=passing)
    metadata = _read(answer.body)
    if metadata is None:
        raise _Unusable("holds no metadata with issuer and token_endpoint; correct issuer, or name token_url")
    if metadata.issuer != issuer:
        # RFC 8414 §3.3: anybody could claim to be somebody else.
        raise _Unusable(
            f"is of another issuer, {_quoted(metadata.issuer)}; if that is yours, name it as issuer"
        )
    if not _fit(metadata.token_endpoint, issuer):
        told = f"names a token endpoint to which no secret can be sent, {_quoted(metadata.token_endpoint)}"
        raise _Unusable(f"{told}; tell the provider, or name token_url")
    others = {name: getattr(metadata, name) for name in _OTHER_ENDPOINTS}
    return msgspec.structs.replace(
        metadata, **{name: "" for name, url in others.items() if not _fit(url, issuer)}
    )


def _read(body: bytes) -> Metadata | None:
    try:
        document = json.loads(body)
        known = {name: document.get(name) for name in Metadata.__struct_fields__}
        return msgspec.convert({name: value for name, value in known.items() if value is not None}, Metadata)
    except (ValueError, AttributeError, RecursionError):
        return None


def _fit(url: str, issuer: str) -> bool:
    """Tell whether secrets may be sent there: a whole URL, and not in clear if the issuer isn't."""
    try:
        scheme = origin(url).partition(":")[0]
    except ConfigError:
        return False
    parts = urlsplit(url)
    safe = scheme == "https" or issuer.startswith("http:")
    return (
        safe
        and parts.username is None
        and not parts.fragment
        and re.fullmatch(r"[\x21-\x7E]+", url) is not None
    )


def _quoted(text: str) -> str:
    """Show what somebody else wrote, in bounds."""
    return "".join(char if char.isprintable() else "?" for char in text[:200])
