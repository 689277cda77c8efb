"""Who asks: somebody whom the trusted proxy names, or who opened the one-time link."""

from __future__ import annotations

import ipaddress
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import msgspec

from sidecar.console.refusal import Refused
from sidecar.console.signing import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from sidecar.config.settings import ConsoleProxy, Operators
    from sidecar.console.signing import Signer

LINK_LIFE = 600.0
"""Seconds in which a one-time link has to be opened."""
LONGEST_NAME = 255
"""Bytes of a user's name."""
LONGEST_GROUPS = 8 * 1024
EVERYBODY = "*"

SESSION, LINK = "session", "link"

_FORWARDED = ("forwarded", "x-forwarded-", "x-real-ip", "via")
"""How the headers begin that a proxy adds to a request."""


class Role(Enum):
    """Who may ask for something."""

    USER = auto()
    """Everybody who is signed in."""
    OPERATOR = auto()


class Visitor(msgspec.Struct, frozen=True):
    """Somebody who is signed in."""

    user: str
    operator: bool
    session: str
    """The id of the browser's session."""
    cookie: str = ""
    """To be set; empty: the browser has it."""


class Access(Protocol):
    """One way of being signed in."""

    can_sign_out: bool

    def visitor(self, request: Request) -> Visitor | None:
        """Say who asks; None if nobody is signed in, and could be. Raises `Refused`."""
        ...


class Cookies:
    """The cookie that keeps a browser's session."""

    def __init__(self, signer: Signer, *, url: str, life: float) -> None:
        """`url` is the console's own."""
        self._signer = signer
        self.secure = url.startswith("https:")
        # On the loopback, cookies are shared by all ports.
        self.name = "__Host-token-sidecar" if self.secure else f"token-sidecar-{url.rpartition(':')[2]}"
        self._life = life

    def read(self, request: Request) -> tuple[str, str] | None:
        """Return the session's id and user; None if there is none that is ours and young enough."""
        held = self._signer.read(SESSION, request.cookies.get(self.name, ""), max_age=self._life)
        match held:
            case [str(session), str(user)]:
                return session, user
            case _:
                return None

    def make(self, session: str, user: str) -> str:
        """Return the cookie's value."""
        return self._signer.sign(SESSION, [session, user])


class ProxyAccess:
    """A reverse proxy says in a header who is signed in."""

    can_sign_out = False

    def __init__(self, proxy: ConsoleProxy, operators: Operators, cookies: Cookies) -> None:
        """Believe it from its own addresses alone."""
        self._proxy, self._operators, self._cookies = proxy, operators, cookies
        self._trusts = trusted(proxy)

    def visitor(self, request: Request) -> Visitor | None:
        """Say who asks. Raises `Refused`."""
        if not self._trusts(address_of(request)):
            raise Refused(
                403, "Not this way", "The console is reached through the proxy that signs people in alone."
            )
        user = self._named(request)
        groups = self._groups(request)
        operators = self._operators
        operator = (
            EVERYBODY in operators.users or user in operators.users or bool(groups & {*operators.groups})
        )
        held = self._cookies.read(request)
        if held is not None and held[1] == user:
            return Visitor(user, operator, held[0])
        session = new_id()
        return Visitor(user, operator, session, self._cookies.make(session, user))

    def _named(self, request: Request) -> str:
        found = request.headers.getlist(self._proxy.user_header)
        if len(found) > 1:
            raise Refused(400, "Who are you?", f"The header {self._proxy.user_header} came more than once.")
        user = _text(found[0], LONGEST_NAME) if found else ""
        if not user:
            raise Refused(
                401,
                "Not signed in",
                f"The proxy names nobody in its header {self._proxy.user_header}. Sign in there.",
            )
        return user

    def _groups(self, request: Request) -> set[str]:
        header = self._proxy.groups_header
        found = request.headers.getlist(header) if header else []
        if len(found) > 1:
            raise Refused(400, "Who are you?", f"The header {header} came more than once.")
        return (
            {name.strip() for name in _text(found[0], LONGEST_GROUPS).split(",")} - {""} if found else set()
        )


def trusted(proxy: ConsoleProxy) -> Callable[[str], bool]:
    """Return what tells of an address whether it is the proxy's."""
    networks = [ipaddress.ip_network(written) for written in proxy.addresses]

    def trusts(address: str) -> bool:
        try:
            found = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in networks)

    return trusts


def _text(value: str, longest: int) -> str:
    """Read a header as UTF-8. Raises `Refused` for what is no name."""
    try:
        text = value.encode("latin-1").decode()
    except UnicodeError:
        text = "\0"
    if not text.isprintable() or len(value) > longest:
        raise Refused(400, "Who are you?", "The proxy's header holds what can't be a name.")
    return text.strip()


class LinkAccess:
    """Whoever opens the link that the command printed is the operator: the person at this machine."""

    can_sign_out = True

    def __init__(self, user: str, cookies: Cookies, links: Signer, now: Callable[[], float]) -> None:
        """`user` is what the audit log calls them; `links` signs links and nothing else."""
        self._user, self._cookies, self._links, self._now = user, cookies, links, now
        self._used: dict[str, float] = {}
        self._ended: set[str] = set()

    def visitor(self, request: Request) -> Visitor | None:
        """Say who asks. Raises `Refused`."""
        if any(name.startswith(_FORWARDED) for name in request.headers):
            raise Refused(
                403,
                "Not this way",
                "A proxy stands before the console, and it wasn't told: see console.proxy.",
            )
        held = self._cookies.read(request)
        if held is None or held[0] in self._ended:
            return None
        return Visitor(held[1], operator=True, session=held[0])

    def sign_in(self, key: str) -> Visitor | None:
        """Use a link's key, once; None if it isn't ours, is too old or was used."""
        nonce = self._links.read(LINK, key, max_age=LINK_LIFE)
        now = self._now()
        self._used = {used: until for used, until in self._used.items() if until > now}
        if not isinstance(nonce, str) or nonce in self._used:
            return None
        self._used[nonce] = now + 2 * LINK_LIFE
        session = new_id()
        return Visitor(
            self._user, operator=True, session=session, cookie=self._cookies.make(session, self._user)
        )

    def sign_out(self, visitor: Visitor) -> None:
        """End a session, wherever its cookie may have got to."""
        self._ended.add(visitor.session)


def address_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client is not None else ""


def asker(address: str) -> str:
    """Return what an address is counted as: of IPv6 a whole network, since anybody has that many."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 6 and not found.ipv4_mapped:  # noqa: PLR2004
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
