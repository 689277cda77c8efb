"""The one way to PostgreSQL: one connection, one statement a call, and an end to every call.

A libpq URL says where it is; asyncpg speaks the protocol and reads what libpq users expect beside it (`PG…` variables,
the password file, certificates under `~/.postgresql`). The connection is opened by the call that needs it. Any
failure closes it, since what it is in the middle of is unknown then, and the next call begins with a new one, which
sees the network, the server and the password as they are by then.

Nothing runs between calls: no pool, no timer, no listener. The kernel's keepalive finds out that a connection died
behind a firewall, and holds it open there.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import anyio
import asyncpg
import msgspec

from sidecar.errors import ConfigError

T = TypeVar("T")

CALL_SECONDS = 5.0
"""For so long a call takes at most: its turn, connecting and the answer together."""
CLOSE_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between attempts to connect within one call."""
APPLICATION = "token-sidecar"
DEFAULT_PORT = 5432
DEFAULT_HOST = "/var/run/postgresql"

POOLERS = ("transaction", "session")
PRIMARY = ("read-write", "primary")
TLS = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
"""Handed to asyncpg as they are written."""
PARAMETERS = (
    *("host", "port", "user", "password", "passfile", "dbname"),
    *TLS,
    *("application_name", "channel_binding", "connect_timeout", "pooler", "target_session_attrs"),
)
FILES = ("passfile", "sslrootcert", "sslcert", "sslkey", "sslcrl")
SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A peer that is gone is noticed after a minute, by the kernel alone."""

ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
WAIT = "the next call tries again"
FAULTS = {
    "26000": ("a pooler stands between, and lost a statement", "add ?pooler=transaction to the URL"),
    "42P05": ("a pooler stands between, and mixed up statements", "add ?pooler=transaction to the URL"),
    "08P01": (
        "the protocol was violated; a pooler that stands between does that",
        "add ?pooler=transaction (or session) to the URL",
    ),
    "28P01": ("the password of {user} was refused", "correct it in the URL, in its file or in the passfile"),
    "28000": ("the login of {user} was refused", "let the role log in, and look at the server's pg_hba.conf"),
    "3D000": ("there is no database {database}", "create it: CREATE DATABASE, or correct the URL"),
    "25006": (
        "it is read-only: no primary",
        "name the primary in the URL, or all hosts, separated by commas",
    ),
    "40001": ("another transaction was in the way", WAIT),
    "40P01": ("another transaction was in the way", WAIT),
    "53100": ("the server's disk is full", "free some space there"),
    "53200": ("the server is out of memory", WAIT),
    "53300": ("the server takes no more connections", "raise max_connections, or use a pooler"),
    "55P03": ("somebody holds a lock on the table for too long", "find out who, in pg_locks"),
    "57014": (
        "the statement took too long, or was cancelled",
        "look at pg_stat_activity for what was in its way",
    ),
    "57P01": ("the server is shutting down, or an administrator closed the connection", WAIT),
    "57P02": ("the server crashed", WAIT),
    "57P03": ("the server does not take connections now", WAIT),
}
"""SQLSTATE → reason, remedy."""
TRANSIENT = {"53300", "57P01", "57P02", "57P03"}
"""With these, connecting is worth another attempt within a call."""


class Fault(Exception):
    """Why a call failed, and the way out. Holds nothing that was sent."""

    def __init__(self, reason: str, remedy: str, *, sqlstate: str = "", transient: bool = False) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy
        self.sqlstate = sqlstate
        """The server's code (PostgreSQL, appendix A); empty where it did not speak."""
        self.transient = transient
        """Whether connecting again a moment later may succeed."""
        self.refused = bool(sqlstate) and sqlstate not in TRANSIENT and not sqlstate.startswith("08")
        """Whether it is certain that nothing was changed: nothing was asked, or the server said no."""


class Target(msgspec.Struct, frozen=True):
    """A database, and how to get in."""

    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: str | None
    database: str | None
    parameters: dict[str, str]
    """Those of the URL that are known, except what the fields above say."""

    def __repr__(self) -> str:
        """Show where it is, and nothing that gets anybody in."""
        return f"Target({self.place})"

    @property
    def place(self) -> str:
        """Hosts and database, for messages."""
        hosts = ",".join(host if host.startswith("/") else f"{host}:{port}" for host, port in self.hosts)
        return f"{hosts}/{self.database}" if self.database else hosts

    @property
    def pooler(self) -> str | None:
        """What kind of pooler stands between, if any."""
        return self.parameters.get("pooler")


def parse(url: str, *, own: Sequence[str] = (), what: str = "store") -> Target:
    """Read a libpq URL; `own` names parameters that the caller has a use for, `what` it is for messages.

    Raises `ConfigError` for whatever would not be heeded. No message repeats a value that may be secret.
    """
    try:
        return _target(url, (*PARAMETERS, *own))
    except ValueError as error:
        raise ConfigError(f"{what}: not a usable postgresql:// URL: {error}") from None


def reread(path: Path, *, own: Sequence[str] = (), what: str = "store") -> Target:
    """Read the URL that is in a file by now, for a new connection. Raises `Fault`."""
    reason = ""
    try:
        return parse(path.read_text(encoding="utf-8").strip(), own=own, what=what)
    except OSError as error:
        reason = error.strerror or "unreadable"
    except (ConfigError, ValueError):
        reason = "it holds no usable URL"
    raise Fault(f"{path} can't be read: {reason}", f"write the {what}'s URL into it")


def _target(url: str, known: Sequence[str]) -> Target:
    if "#" in url:
        raise ValueError("a # in a user name or password is written %23")
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ValueError("it begins with postgresql://")
    parameters = _parameters(parts.query, known)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    database = unquote(parts.path.removeprefix("/"))
    if "/" in database:
        raise ValueError("behind the host comes one name, the database's; a / in a password is written %2F")
    given = {name: parameters.pop(name, None) for name in ("host", "port", "user", "password", "dbname")}
    return Target(
        hosts=_hosts(hosts or given["host"], given["port"]),
        user=unquote(user) or given["user"],
        password=unquote(password) or given["password"],
        database=database or given["dbname"],
        parameters=_checked(parameters),
    )


def _parameters(query: str, known: Sequence[str]) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, _ in pairs:
        if name not in known:
            # It may be a piece of a password that has a ? in it.
            shown = name if re.fullmatch("[a-z_]{1,30}", name) else "one of its parameters"
            raise ValueError(f"{shown} is not known here; these are: {', '.join(sorted(known))}")
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a parameter is given twice")
    return dict(pairs)


def _checked(parameters: dict[str, str]) -> dict[str, str]:
    choices = {
        "sslmode": SSLMODES,
        "pooler": POOLERS,
        "target_session_attrs": (*PRIMARY, "any"),
        "channel_binding": ("disable", "prefer"),
        "sslnegotiation": ("postgres", "direct"),
    }
    for name, known in choices.items():
        if parameters.get(name, known[0]) not in known:
            raise ValueError(f"{name} is one of {', '.join(known)} here")
    if not parameters.get("connect_timeout", "1").isdecimal():
        raise ValueError("connect_timeout is a whole number of seconds")
    if parameters.get("sslrootcert") == "system":
        if parameters.get("sslmode") != "verify-full":
            raise ValueError("sslrootcert=system needs sslmode=verify-full")
        beside = sorted(set(TLS) & set(parameters) - {"sslrootcert", "sslmode"})
        if beside:
            raise ValueError(f"{beside[0]} can't go with sslrootcert=system")
    return parameters


def _hosts(written: str | None, ports: str | None) -> tuple[tuple[str, int], ...]:
    names = written or os.environ.get("PGHOST") or DEFAULT_HOST
    defaults = (ports or os.environ.get("PGPORT") or str(DEFAULT_PORT)).split(",")
    hosts = names.split(",")
    if len(defaults) == 1:
        defaults *= len(hosts)
    if len(defaults) != len(hosts):
        raise ValueError(f"there are {len(hosts)} hosts and {len(defaults)} ports")
    return tuple(_host(host, port) for host, port in zip(hosts, defaults, strict=True))


def _host(written: str, default: str) -> tuple[str, int]:
    name, _, port = unquote(written), "", default
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        port = rest.removeprefix(":") or default
    elif not name.startswith("/") and name.count(":") == 1:
        name, _, port = name.partition(":")
    if not name:
        raise ValueError("a host has no name")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError("a port is a number up to 65535; a : or @ in a password is written %3A or %40")
    return name, int(port)


class Postgres:
    """One connection to one database, used by one call at a time."""

    def __init__(
        self,
        target: Target,
        *,
        login: Callable[[], Target] | None = None,
        prepare: Callable[[Postgres], Awaitable[None]] | None = None,
        patience: float = CALL_SECONDS,
    ) -> None:
        """Take where to connect to; nothing happens yet.

        `login` gives the user and password of each new connection (and raises `Fault`); `prepare` looks at each
        new connection before it is used; `patience`: seconds for a whole call.
        """
        self.target = target
        self._login = login or (lambda: target)
        self._prepare = prepare
        self._patience = patience
        self._turn = anyio.Lock()
        self._connection: Any = None
        self._reachable = True

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Run one statement, as one transaction, and return its rows. Raises `Fault`.

        After a `Fault` it may or may not have happened, unless that says that it was `refused`.
        """
        return await self._call(lambda: self.fetch_within(statement, *arguments))

    async def run(self, script: str) -> None:
        """Run statements without arguments, as one transaction. Raises `Fault`."""
        await self._call(lambda: self.run_within(script))

    async def close(self) -> None:
        """Close the connection, after the call that is under way."""
        with anyio.move_on_after(CLOSE_SECONDS + self._patience, shield=True):
            async with self._turn:
                connection, self._connection = self._connection, None
                if connection is not None:
                    try:
                        await connection.close(timeout=CLOSE_SECONDS)
                    except Exception:  # noqa: BLE001 - it is closed, politely or not
                        connection.terminate()

    async def fetch_within(self, statement: str, *arguments: Any) -> list[Any]:
        """Do what `fetch` does within `prepare`, which has the turn already."""
        rows: list[Any] = await self._connection.fetch(statement, *arguments)
        return rows

    async def run_within(self, script: str) -> None:
        """Do what `run` does within `prepare`."""
        await self._connection.execute(script)

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Have `work` done on a connection. Once it has its turn, nothing but the end of its time cancels it."""
        fault, asked = Fault("earlier calls took all the time", WAIT), False
        with anyio.move_on_after(self._patience) as limit:
            async with self._turn:
                limit.shield = True
                fault = Fault(
                    f"it did not answer for {self._patience:g} s", "look at the network, and at pg_locks"
                )
                try:
                    await self._connected(limit)
                    asked = True
                    return await work()
                except Fault as error:
                    fault = error
                    self._drop()
                except ERRORS as error:
                    fault = self._explained(error)
                    self._drop()
                except BaseException:
                    self._drop()
                    raise
        fault.refused = fault.refused or not asked
        # Raised here, where nothing is handled: asyncpg's errors hold what was sent, and would come along.
        raise fault

    async def _connected(self, limit: anyio.CancelScope) -> None:
        if self._connection is not None and not self._connection.is_closed():
            return
        self._drop()
        pause = FIRST_PAUSE
        while True:
            try:
                self._connection = await self._connect(limit)
                if self._prepare is not None:
                    await self._prepare(self)
            except Fault as fault:
                left = limit.deadline - anyio.current_time()
                # One call waits for a server that restarts. Those after it don't: their turns are others' time.
                if not fault.transient or not self._reachable or left < 2 * pause:
                    self._reachable = self._reachable and not fault.transient
                    raise
            else:
                self._reachable = True
                return
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _connect(self, limit: anyio.CancelScope) -> Any:
        """Try the hosts in turn; each has an equal share of the time that is left."""
        login = self._login()
        # Another database would be another store, and is not slipped in with a password.
        target = msgspec.structs.replace(self.target, user=login.user, password=login.password)
        _check_files(target.parameters)
        faults: list[Fault] = []
        for position, (host, port) in enumerate(self.target.hosts):
            left = limit.deadline - anyio.current_time()
            share = max(0.05, 0.9 * left / (len(self.target.hosts) - position))
            try:
                return await self._open(target, host, port, share)
            except TimeoutError:
                faults.append(
                    Fault(f"{host} did not answer for {share:.1f} s", "look at the network", transient=True)
                )
            except ERRORS as error:
                faults.append(self._refusal(error, target, host))
        raise _summed_up(faults)

    async def _open(self, target: Target, host: str, port: int, seconds: float) -> Any:
        given = target.parameters
        pooled = target.pooler is not None
        tls = {name: given[name] for name in TLS if name in given}
        system = tls.get("sslrootcert") == "system"
        if system:
            tls = {}
        asked = given.get("target_session_attrs", PRIMARY[0])
        # Behind a pooler there is no session: neither settings, nor statements with names, nor a server's own state.
        settings = {"application_name": given.get("application_name", APPLICATION)}
        if not pooled:
            settings["statement_timeout"] = f"{1000 * self._patience:.0f}"
        limit = min(seconds, float(given.get("connect_timeout") or 0) or seconds)
        return await asyncpg.connect(
            f"postgresql://?{urlencode(tls)}",
            host=host,
            port=port,
            user=target.user,
            password=target.password,
            passfile=given.get("passfile"),
            database=target.database,
            ssl=True if system else None,
            server_settings=settings,
            target_session_attrs="any" if pooled else asked,
            statement_cache_size=0 if pooled else 100,
            max_cached_statement_lifetime=0,
            connection_class=_Connection,
            timeout=limit,
        )

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _refusal(self, error: Exception, target: Target, host: str) -> Fault:
        """Say why there is no connection, where that means something else than it does for a statement."""
        sqlstate, user = getattr(error, "sqlstate", None), target.user or "the user"
        if sqlstate == "42501":
            database, role = target.database or "DATABASE", target.user or "ROLE"
            grant = f"GRANT CONNECT ON DATABASE {database} TO {role}"
            return Fault(f"{user} may not connect to {database}", grant, sqlstate=sqlstate)
        if sqlstate == "08P01" and target.pooler:
            return Fault(f"the pooler refused {user}", "look at its log", sqlstate=sqlstate)
        return self._explained(error, host)

    def _explained(self, error: Exception, host: str = "") -> Fault:
        sqlstate = getattr(error, "sqlstate", None) or ""
        name = type(error).__name__
        at = f"{host}: " if host and len(self.target.hosts) > 1 else ""
        if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
            sqlstate = "25006"
        if sqlstate in FAULTS:
            reason, remedy = FAULTS[sqlstate]
            names = {"user": self.target.user or "the user", "database": self.target.database or ""}
            reason = reason.format(**names)
            return Fault(at + reason, remedy, sqlstate=sqlstate, transient=sqlstate in TRANSIENT)
        if isinstance(error, asyncpg.PostgresError) and not isinstance(
            error, asyncpg.PostgresConnectionError
        ):
            return Fault(
                f"{at}it refused the statement ({name}, {sqlstate})", "look at its log", sqlstate=sqlstate
            )
        if isinstance(error, asyncpg.ClientConfigurationError):
            return Fault(f"{at}{error}", "correct the URL")
        if isinstance(error.__cause__, ssl.SSLError):
            # With TLS 1.3 the other side judges our certificate when the connection stands already.
            return _unreachable(error.__cause__, host)
        if isinstance(error, OSError):
            return _unreachable(error, host)
        return Fault(f"{at}the connection broke ({name})", WAIT, transient=True)


class _Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection whose death is noticed while it is idle."""

    def __init__(self, protocol: Any, transport: asyncio.Transport, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family in {socket.AF_INET, socket.AF_INET6}:
            for level, option, value in KEEPALIVE:
                connected.setsockopt(level, option, value)


def _check_files(parameters: dict[str, str]) -> None:
    """Name what can't be read, and the password file that libpq and asyncpg pass over in silence."""
    for name in FILES:
        path = Path(parameters.get(name, ""))
        if path in {Path(), Path("system")}:
            continue
        try:
            path.open("rb").close()
        except OSError as error:
            raise Fault(
                f"{name}: {path} can't be read ({error.strerror})", "correct its path, or its mode"
            ) from None
        mode = stat.S_IMODE(path.stat().st_mode)
        if name == "passfile" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Fault(
                f"the passfile {path} is passed over, being open to others ({mode:04o})", f"chmod 600 {path}"
            )


def _unreachable(error: OSError, host: str) -> Fault:
    if "rejected SSL" in str(error):
        return Fault(
            f"{host} does not speak TLS", "switch it on there, or write sslmode=disable if the wire is safe"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        remedy = "name the certificate's issuer (sslrootcert=PATH), and the host as the certificate does"
        reason = error.verify_message or "it does not verify"
        return Fault(f"{host}: the certificate is refused: {reason}", remedy)
    if isinstance(error, ssl.SSLError):
        told = (error.reason or type(error).__name__).replace("_", " ").lower()
        return Fault(
            f"{host}: TLS failed ({told})",
            "name a certificate that is trusted there, and its key (sslcert, sslkey)",
        )
    reason = error.strerror or str(error) or type(error).__name__
    return Fault(
        f"{host} can't be reached ({reason})", "look whether it runs, and at the network", transient=True
    )


def _summed_up(faults: list[Fault]) -> Fault:
    """Make one fault of those of all hosts; the last is the one that a host gave that was reached."""
    if len(faults) == 1:
        return faults[0]
    spoken = [fault for fault in faults if fault.sqlstate] or faults
    return Fault(
        ", and ".join(fault.reason for fault in faults),
        spoken[-1].remedy,
        sqlstate=spoken[-1].sqlstate,
        transient=any(fault.transient for fault in faults),
    )
