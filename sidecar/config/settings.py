"""The configuration as frozen groups: what each key means, its type, unit and default.

These classes are the one source of the JSON Schema, of the reference page and of what the daemon runs on:
the docstring under a field is its text there. `ConfigFile` is the file as a user writes it, `Settings` is
what the daemon runs on. All are frozen and compare by value, so a reload finds what changed by comparing.
"""

from __future__ import annotations

import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import msgspec

from sidecar.config import members
from sidecar.errors import UnknownToken
from sidecar.profile import (
    AnswerShape,
    AuthMethod,
    BodyKind,
    ErrorRule,
    GrantType,
    InDoubt,
    Profile,
    Rotation,
)
from sidecar.tokens import fingerprint

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(float):
    """Seconds; written as a number with a unit (`90s`, `10m`, `1h30m`) or as a plain number of seconds."""

    __slots__ = ()

    PATTERN = r"^([0-9]{1,9}(\.[0-9]{1,9})?(d|h|ms|m|s))+$|^[0-9]{1,9}(\.[0-9]{1,9})?$"
    MAXIMUM = 3.2e9
    """About a hundred years."""

    @classmethod
    def parse(cls, written: object) -> Self:
        """Read a duration as it stands in the file. Raises `ValueError`."""
        if isinstance(written, str) and re.search(cls.PATTERN, written):
            parts = re.findall(r"([0-9.]+)(d|h|ms|m|s)", written)
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else float(written)
        elif isinstance(written, int | float) and not isinstance(written, bool):
            seconds = float(written)
        else:
            raise ValueError("is no duration; write it like 90s, 10m or 1h30m")
        if not 0 <= seconds <= cls.MAXIMUM:
            raise ValueError("is not a duration between 0 and a hundred years")
        return cls(seconds)


class FileMode(int):
    """Permission bits; written as a quoted octal string such as `"0640"`."""

    __slots__ = ()

    PATTERN = r"^(0o?)?[0-7]{3}$"

    @classmethod
    def parse(cls, written: object) -> Self:
        """Read a file mode as it stands in the file. Raises `ValueError`."""
        if not isinstance(written, str) or not re.search(cls.PATTERN, written):
            raise ValueError('is no file mode; write it as a quoted octal string such as "0640"')
        return cls(int(written, 8))


class Group(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping in the configuration; unknown keys are errors."""


Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]
"""A token's or namespace's name: it becomes a metric label, a file name and part of a key."""

NAMESPACE_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
OBJECT_PATTERN = r"^[a-z0-9](([a-z0-9.-]|\{account\}){0,251}([a-z0-9]|\{account\}))?$"
KEY_PATTERN = r"^([A-Za-z0-9._-]|\{account\}){1,253}$"

PREFIX_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}(/[A-Za-z0-9][A-Za-z0-9._-]{0,62}){0,3}/$"
"""What the names of a set's records begin with; the slash tells them from those of plain tokens."""

KubernetesNamespace = Annotated[str, msgspec.Meta(pattern=NAMESPACE_PATTERN)]
"""RFC 1123's label, as Kubernetes demands it."""
KubernetesName = Annotated[str, msgspec.Meta(pattern=OBJECT_PATTERN)]
"""RFC 1123's subdomain, as Kubernetes demands it."""
KubernetesKey = Annotated[str, msgspec.Meta(pattern=KEY_PATTERN)]
"""What a key of a Secret may be called."""

AwsName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9/_+=.@{}-]{1,512}$")]
"""What AWS Secrets Manager takes as a secret's name, and `{account}` in it."""

SigningAlgorithm = Literal[
    "HS256",
    "HS384",
    "HS512",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]
"""Signature algorithms of assertions (RFC 7518 §3.1, RFC 8037 §3.1)."""

OutputFormat = Literal[
    "raw", "header", "json", "gmail-sdk", "google-authorized-user", "dotenv", "netrc", "template"
]
SeedFormat = Literal["raw", "json", "gmail-sdk", "google-authorized-user", "dotenv"]


class OnDead(StrEnum):
    """What a dead grant does to the probes."""

    RESTART = "restart"
    """`/livez` fails once the grace is over, so that the pod is restarted and somebody notices."""
    UNREADY = "unready"
    """Only `/readyz` fails, once the access token has expired."""
    REPORT = "report"
    """Neither fails because of it: metrics and logs only."""


class Client(Group, frozen=True, kw_only=True):
    """The OAuth client (RFC 6749 §2)."""

    file: Path | None = None
    """Google's `credentials.json` (`installed` or `web`) or a service account's key, read as it is; re-read when
    it changes."""
    id: str | None = None
    """The client's identifier, which is public."""
    id_file: Path | None = None
    """A file that holds the identifier; re-read when it changes."""
    id_aws_secret: AwsName | None = None
    """A secret in AWS Secrets Manager that holds the identifier, bare or as `client_id` in JSON; looked at every
    minute."""
    secret: str | None = None
    """For `${NAME}`; a file is better, since it is re-read when it changes."""
    secret_file: Path | None = None
    """A file that holds the secret; re-read when it changes."""
    secret_files: tuple[Path, ...] = ()
    """Several secrets in order of preference: the next one is used when the provider refuses one, so that a secret
    can be replaced without a gap."""
    private_key_file: Path | None = None
    """A private key (PEM) to sign assertions with, or the key of `certificate_file`; re-read when it changes."""
    key_id: str | None = None
    """The key's `kid`, where the provider wants to know which one signed."""
    signing_algorithm: SigningAlgorithm | None = None
    """By default what suits the key: RS256, ES256, ES384, ES512 or EdDSA; HS256 for a secret."""
    certificate_file: Path | None = None
    """A certificate (PEM, with its chain) for `tls_client_auth`, whose key may be in the same file. With
    `private_key_jwt` its thumbprint names the key (`x5t#S256`), as Entra wants it. Re-read when it changes."""
    auth_method: AuthMethod | None = None
    """How the client authenticates; by default as the provider's profile says."""
    redirect_uri: str | None = None
    """`login` only: where a browser is sent after the consent, as it is registered for this client. On this machine
    (`http://127.0.0.1:PORT/PATH`) it is listened to. By default `http://127.0.0.1` with any free port."""

    @property
    def files(self) -> dict[tuple[str | int, ...], Path]:
        """Every file that is named here, by its place."""
        single = ("file", "id_file", "secret_file", "private_key_file", "certificate_file")
        named: dict[tuple[str | int, ...], Path] = {
            (key,): path for key in single if (path := getattr(self, key)) is not None
        }
        return {**named, **{("secret_files", index): path for index, path in enumerate(self.secret_files)}}

    def __repr__(self) -> str:
        """Show the secret's fingerprint in its place."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["secret"] = fingerprint(self.secret) if self.secret else None
        return f"Client({', '.join(f'{name}={value}' for name, value in shown.items() if value)})"


class SubjectToken(Group, frozen=True, kw_only=True):
    """The token that `token_exchange` trades in (RFC 8693 §2.1). A path alone stands for `{file: PATH}`."""

    file: Path
    """Read anew for every request: somebody else keeps it fresh, such as kubelet a service account's token."""
    type: str = "urn:ietf:params:oauth:token-type:jwt"
    """What kind of token it is (RFC 8693 §3)."""


class SecretKey(Group, frozen=True, kw_only=True):
    """One key of a Kubernetes Secret."""

    PER_ACCOUNT: ClassVar = {"name": "object", "key": "key"}

    namespace: KubernetesNamespace | None = None
    """By default the pod's own; outside of pods the kubeconfig's."""
    name: KubernetesName
    """The Secret's name."""
    key: KubernetesKey
    """Which of its keys."""


class AwsSecret(Group, frozen=True, kw_only=True):
    """A secret in AWS Secrets Manager, in the account and region that the SDK finds."""

    PER_ACCOUNT: ClassVar = {"name": "aws"}

    name: AwsName
    """The secret's name, without its ARN."""


class SqlCell(Group, frozen=True, kw_only=True):
    """One column of one row, in a table of an application's own PostgreSQL database."""

    LOCATIONS: ClassVar = ("url", "url_file")
    PER_ACCOUNT: ClassVar = {"where": "text"}

    url: str | None = None
    """Where the database is: `postgresql://USER@HOST/DATABASE`, with the parameters that a store's URL has."""
    url_file: Path | None = None
    """A file that holds the URL; the user and password in it are read again for every new connection."""
    table: Annotated[str, msgspec.Meta(min_length=1)]
    """`TABLE` or `SCHEMA.TABLE`, spelt exactly as in the database; a name with a dot in it stands in double quotes."""
    where: Annotated[dict[str, str | int], msgspec.Meta(min_length=1)]
    """Columns and the values that tell the row from all others."""
    column: Annotated[str, msgspec.Meta(min_length=1)]
    """The column with the token: a text, `json` or `jsonb`."""

    def __repr__(self) -> str:
        """Hide the URL: it may hold a password."""
        return f"{type(self).__name__}({self.table}.{self.column})"

    @property
    def relation(self) -> tuple[str, ...]:
        """The table's name, after its schema's if that is given; empty: it is no name."""
        part = r'"(?:[^"]|"")+"|[^".]+'
        found = re.fullmatch(rf"(?:({part})\.)?({part})", self.table, re.DOTALL)
        names = [name for name in found.groups() if name] if found else []
        return tuple(name[1:-1].replace('""', '"') if name.startswith('"') else name for name in names)

    @property
    def cell(self) -> tuple[str, ...]:
        """What two of them have in common that mean the same, wherever it is said how to log in."""
        place = str(self.url_file) if self.url is None else re.sub("//[^@/]*@", "//", self.url)
        where = (f"{name}={value}" for name, value in sorted(self.where.items()))
        return (place, self.table, self.column, *where)


class SqlOutput(SqlCell, frozen=True, kw_only=True):
    """One column of one row, in a table of an application's own PostgreSQL database."""

    updated_column: str | None = None
    """A `timestamp` (in UTC) or `timestamptz` that says when the token was written."""
    mode: Literal["upsert", "update"] = "upsert"
    """`upsert` makes a row that is missing, from `where` and the token; to `update` that is an error."""


class SeedSource(Group, frozen=True, kw_only=True):
    """Where an operator leaves a refresh token: a file, a secret or a table. A path alone stands for `{file: PATH}`."""

    PLACES: ClassVar = ("file", "kubernetes_secret", "aws_secret", "sql")
    PER_ACCOUNT: ClassVar = {"file": "file"}

    file: Path | None = None
    """Watched; it may be missing or empty, and the token is unseeded until it isn't."""
    kubernetes_secret: SecretKey | None = None
    """Looked at every minute and never written; what is missing there leaves the token unseeded, too."""
    aws_secret: AwsSecret | None = None
    """The same for a secret in AWS Secrets Manager: `{name: NAME}`."""
    sql: SqlCell | None = None
    """Looked at every minute and never written; a missing row or a NULL leaves the token unseeded, too."""
    format: SeedFormat | None = None
    """By default recognised from the content."""
    fields: dict[str, str] | None = None
    """`json` and `dotenv` only: what our values are called there, where it isn't the usual name."""


class JsonField(Group, frozen=True, kw_only=True):
    """One value of a `json` or `dotenv` output."""

    name: str
    """Its name in the output."""
    type: Literal["string", "integer", "number", "milliseconds", "iso8601", "iso8601_naive"] | None = None
    """By default as JSON has it. For times: Unix seconds or milliseconds, `2026-01-31T12:00:00Z`, or
    `2026-01-31T12:00:00.000000` without saying that it is UTC."""


class OutputTarget(Group, frozen=True, kw_only=True):
    """Where a token is published: to a file, to a secret or to a table."""

    PLACES: ClassVar = ("file", "kubernetes_secret", "aws_secret", "sql")
    FOR_FILES: ClassVar = ("mode", "owner", "group", "adopt", "require_tmpfs")
    """Keys that say nothing of other places."""
    PER_ACCOUNT: ClassVar = {"file": "file", "login": "text"}

    file: Path | None = None
    """Replaced atomically; mount its directory, never the file itself."""
    kubernetes_secret: SecretKey | None = None
    """This one key is kept right; the Secret has to exist, and its other keys are left alone."""
    aws_secret: AwsSecret | None = None
    """Its value is kept right, and created if it is missing; where both are JSON objects, what else is in it stays."""
    sql: SqlOutput | None = None
    """This one column is kept right; the table has to exist, and its other columns are left alone."""
    format: OutputFormat = "json"
    """How the token is laid out."""
    mode: FileMode = msgspec.field(default_factory=lambda: FileMode(0o640))
    """Files only: the permission bits."""
    owner: str | int | None = None
    """Files only: user name or numeric id."""
    group: str | int | None = None
    """Files only: group name or numeric id."""
    required: bool | None = None
    """Whether the token is unready without it; by default files are required, and others are not."""
    scopes: tuple[str, ...] = ()
    """What its readers need: a consent asks for these too, beside the token's own."""
    adopt: bool = False
    """Files only: take over what the application refreshes by itself; needs `include_refresh_token`."""
    include_refresh_token: bool = False
    """Write the refresh token too; refused where the provider rotates refresh tokens."""
    fields: dict[str, str | JsonField] | None = None
    """`json` and `dotenv` only: which of our values to write, under which name."""
    machine: str | None = None
    """`netrc` only: the host that the token is for."""
    login: str = "oauth2"
    """`netrc` only: the login beside the token; GitHub wants `x-access-token`, GitLab `oauth2`."""
    template: str | None = None
    """`template` only: the text, as a Jinja2 template over the values of `fields`."""
    require_tmpfs: bool = False
    """Files only: refuse a directory that is not in memory, where tokens would reach a disk."""

    @property
    def is_required(self) -> bool:
        """Whether the token is unready without it."""
        return self.file is not None if self.required is None else self.required


class RolloutRestart(Group, frozen=True, kw_only=True):
    """A workload whose pods are replaced, a few at a time, as `kubectl rollout restart` does it."""

    WORKLOADS: ClassVar = ("deployment", "statefulset", "daemonset")
    PER_ACCOUNT: ClassVar = dict.fromkeys(WORKLOADS, "object")

    namespace: KubernetesNamespace | None = None
    """By default the pod's own; outside of pods the kubeconfig's."""
    deployment: KubernetesName | None = None
    """The name of a Deployment."""
    statefulset: KubernetesName | None = None
    """The name of a StatefulSet."""
    daemonset: KubernetesName | None = None
    """The name of a DaemonSet."""

    @property
    def workload(self) -> tuple[str, str]:
        """Its kind as it is written here, and its name."""
        return next(((kind, name) for kind in self.WORKLOADS if (name := getattr(self, kind))), ("", ""))


HttpStatus = Annotated[int, msgspec.Meta(ge=100, le=599)]


class HttpCall(Group, frozen=True, kw_only=True):
    """One HTTP request that says: there is a new token. It carries names and no token; no redirect is followed."""

    PER_ACCOUNT: ClassVar = {"url": "url"}

    url: Annotated[str, msgspec.Meta(min_length=1)]
    """`https://…`, or plain http to loopback: another container of the same pod, a program on the same host."""
    method: Literal["POST", "PUT", "PATCH", "GET", "DELETE"] = "POST"
    """`GET` and `DELETE` carry no body."""
    headers: dict[str, str] = {}
    """Sent with it; a password comes from `${NAME}`."""
    body: str | None = None
    """Sent as it is, as `text/plain` unless `headers` say otherwise; by default a JSON object of `token`, `lineage`,
    `generation` and `outputs` (the files)."""
    expect: tuple[HttpStatus, ...] = ()
    """Statuses that count as success; by default all from 200 to 299."""

    def __repr__(self) -> str:
        """Show the names of headers, whose values may be secret, and leave out the body."""
        return f"HttpCall({self.method} {self.place}, headers={[*self.headers]})"

    @property
    def place(self) -> str:
        """The URL's host and port: of a webhook everything behind them, and before an `@`, may be the secret."""
        return re.split("[/?#]", self.url.partition("//")[2])[0].rpartition("@")[2]


class Command(Group, frozen=True, kw_only=True):
    """A program that is run, without a shell: no `|`, no `*`, no `$NAME` in its arguments."""

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """The program's whole path, and its arguments."""
    user: str | int | None = None
    """Whom to run it as, name or numeric id; needs a daemon that is root."""


class ProcessSignal(Group, frozen=True, kw_only=True):
    """A signal to a process that this one can see: on the same host, or in a pod with one process namespace."""

    TARGETS: ClassVar = ("pid_file", "process")

    pid_file: Path | None = None
    """Holds the number of the process, as the process itself wrote it."""
    process: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """Its name, as `ps -o comm` or the first word of its command line has it. If several have it, all get the signal,
    but not those whose parent gets it."""
    signal: Literal["HUP", "USR1", "USR2", "INT", "QUIT", "TERM", "WINCH"] = "HUP"
    """A process that doesn't handle it is left alone, unless it is one that is meant to end processes."""


class HookSettings(Group, frozen=True, kw_only=True):
    """What is done once a new token is in the store and in every output."""

    PLACES: ClassVar = ("http", "exec", "signal", "rollout_restart")

    http: HttpCall | None = None
    """Call a URL of the application's."""
    exec: Command | None = None
    """Run a program."""
    signal: ProcessSignal | None = None
    """Send a signal."""
    rollout_restart: RolloutRestart | None = None
    """Restart a workload, for applications that read their token at the start only; once, however many daemons share
    the grant."""
    when: Literal["refresh", "lineage"] = "refresh"
    """`refresh`: for each new access token. `lineage`: only when the grant began anew, with a seed or login; that
    suffices for applications that were given the refresh token and refresh by themselves."""
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,62}$")] | None = None
    """What metrics and messages call it; by default what it does, and to whom: `http:POST HOST:PORT`, `exec:PROGRAM`,
    `signal:HUP PROCESS`, `rollout_restart:NAMESPACE/KIND/NAME`."""
    timeout: Duration = msgspec.field(default_factory=lambda: Duration(30.0))
    """How long one attempt may take."""
    attempts: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How often it is tried for one token; by default until it succeeds, or there is a newer token."""

    @property
    def label(self) -> str:
        """What metrics and messages call it; a rollout restart's own adds the namespace, where it isn't given."""
        if self.name is not None:
            return self.name
        if self.http is not None:
            return f"http:{self.http.method} {self.http.place}"
        if self.exec is not None:
            return f"exec:{self.exec.argv[0]}"
        if self.signal is not None:
            return f"signal:{self.signal.signal} {self.signal.pid_file or self.signal.process}"
        return "rollout_restart"


class ProviderSettings(Group, frozen=True, kw_only=True):
    """A provider profile of your own; under a built-in one's name it changes that. What is left out stays."""

    extends: str | None = None
    """The built-in profile to start from; by default the one of the same name, else `generic`."""
    title: str | None = None
    """The provider's name, for people."""
    docs: str | None = None
    issuer: str | None = None
    token_url: str | None = None
    """The token endpoint (RFC 6749 §3.2). `github_installation` has `{installation}` in it."""
    revocation_url: str | None = None
    """The revocation endpoint (RFC 7009)."""
    introspection_url: str | None = None
    authorization_url: str | None = None
    device_authorization_url: str | None = None
    authorization_params: dict[str, str] | None = None
    consent_scopes: tuple[str, ...] | None = None
    scope_separator: str | None = None
    pkce: bool | None = None
    grant: GrantType | None = None
    """How access tokens are obtained."""
    auth_method: AuthMethod | None = None
    """How clients authenticate."""
    method: Literal["POST", "GET"] | None = None
    body: BodyKind | None = None
    """How a token request carries its members."""
    param_names: dict[str, str] | None = None
    extra_params: dict[str, str] | None = None
    extra_headers: dict[str, str] | None = None
    scope_on_refresh: bool | None = None
    answer: AnswerShape | None = None
    default_ttl: Duration | None = None
    zero_means_never: bool | None = None
    rotation: Rotation | None = None
    """Whether a refresh answers with a new refresh token that replaces the old one."""
    in_doubt: InDoubt | None = None
    """What may be done when a request may have been processed but its answer is lost. Beside a `rotation` of your own
    it is `no_replay` unless you say it: what the extended profile says was said of its own rotation."""
    grace: Duration | None = None
    kills_old_access_token: bool | None = None
    """Whether a refresh ends the life of the access token before it."""
    refresh_ttl: Duration | None = None
    refresh_idle_ttl: Duration | None = None
    min_interval: Duration | None = None
    unavailable_is_refusal: bool | None = None
    errors: tuple[ErrorRule, ...] | None = None
    """What this provider's errors mean; tried before the rules of the profile that is extended."""
    max_rate: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """Sets only: how many refreshes a second one daemon asks for, in all; by default as many as the provider takes."""
    max_concurrent: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Sets only: how many requests of one daemon are under way at once; `max_workers` bounds them as well."""


class SqlAccounts(Group, frozen=True, kw_only=True):
    """The accounts as an application's own PostgreSQL database lists them."""

    LOCATIONS: ClassVar = ("url", "url_file")

    url: str | None = None
    """`postgresql://USER@HOST/DATABASE`; a role that may read the table is enough."""
    url_file: Path | None = None
    """A file that holds the URL; the user and password in it are read again for every new connection."""
    query: str
    """One SELECT, whose first column is the account's name: `SELECT email FROM users WHERE gmail`."""

    def __repr__(self) -> str:
        """Hide the URL: it may hold a password."""
        return "SqlAccounts(...)"


class ForEach(Group, frozen=True, kw_only=True):
    """Who the accounts of a set are. They come and go while the daemon runs.

    `{account}` in the set's other settings is each account's name. In the name of a file, all but letters, digits and
    `._@+-` is percent-encoded there, and so is a dot at its beginning.
    """

    store: Annotated[str, msgspec.Meta(pattern=PREFIX_PATTERN)] | None = None
    """What the names of the accounts' records begin with, in the store; by default the set's name and a `/`. Without
    `sql`, each such record is an account."""
    sql: SqlAccounts | None = None
    """Ask the application's own database who the accounts are, and keep a record for each."""
    enrolment: bool = False
    """Whether users may connect their own account in the console, under the name that they are signed in with."""
    max_series: Annotated[int, msgspec.Meta(ge=0, le=100000)] = 100
    """So many accounts have metrics and a place in `/status` of their own; the others are told of together, as
    `SET/*`."""
    every: Duration = msgspec.field(default_factory=lambda: Duration(10))
    """How often it is looked who the accounts are."""


class TokenSettings(Group, frozen=True, kw_only=True):
    """One token, or a set of them. What is left out follows from its provider's profile and from its lifetime."""

    PER_ACCOUNT: ClassVar = {"subject": "text"}

    for_each: ForEach | None = None
    """Makes this a set: a token for each account, of which each is called `SET/ACCOUNT`."""
    provider: str | ProviderSettings | None = None
    """A profile's name, or a profile inline: `{token_url: …}`."""
    grant: GrantType | None = None
    """How access tokens are obtained; by default as the profile says."""
    client: Client = Client()
    """The OAuth client."""
    seed: SeedSource | None = None
    """Where an operator leaves a refresh token: a path, `{file, format}`, `{kubernetes_secret, format}`,
    `{aws_secret, format}` or `{sql, format}`."""
    outputs: tuple[OutputTarget, ...] = ()
    """Where the token is published."""
    after_refresh: tuple[HookSettings, ...] = ()
    """Who is told once a new token is in the store and in every output."""
    scopes: tuple[str, ...] = ()
    """What to ask for, where the grant asks."""
    audience: str | None = None
    """The service that the token is for, where the provider wants to know."""
    resource: str | None = None
    """The same as a URL, for providers that call it so (RFC 8707)."""
    subject: str | None = None
    """`jwt_bearer`: the user that the token acts for; with Google's service accounts, by domain-wide delegation."""
    subject_token: SubjectToken | None = None
    """`token_exchange`: the token that is traded in."""
    installation: str | None = None
    """`github_installation`: the number of the GitHub App's installation."""
    required: bool = True
    """Whether the daemon is unready without it; not by default for the tokens of a set."""
    min_validity: Duration | None = None
    """What a reader finds left, at least; by default the shorter of 10m and a sixth of the lifetime."""
    refresh_at: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    """Fraction of the lifetime after which a refresh is due; by default between 0.70 and 0.75."""
    min_interval: Duration | None = None
    """The shortest time between refreshes; by default the shorter of 30s and a tenth of the lifetime."""
    lease: Duration | None = None
    """For how long one daemon may call the provider; by default an eighth of the lifetime, 3s to 60s."""
    request_timeout: Duration | None = None
    """For connecting and sending; by default a third of the lease."""
    refresh_token_ttl: Duration | None = None
    """Life of the refresh token from its consent (Google testing: 7d), of which the provider doesn't tell."""
    refresh_without_store: bool = False
    """Refresh even while the store is unreachable; only for one daemon that shares its grant with nobody."""
    on_dead: OnDead = OnDead.RESTART
    """What a dead grant does to the probes: fail `/livez`, fail `/readyz`, or be reported only. One account's grant
    can't restart the daemon of all: for the tokens of a set it's `report` by default, and `restart` is refused."""
    dead_grace: Duration | None = None
    """How long a grant is dead before `/livez` fails; by default 60s, or 15m if it was dead at the start."""


class StoreSettings(Group, frozen=True, kw_only=True):
    """Where records are kept, and how they are sealed. A URL alone stands for `{url: URL}`."""

    url: str | None = None
    """`sqlite:///absolute/path`, `sqlite:path`, `postgresql://USER@HOST/DATABASE`, `kubernetes://NAMESPACE/NAME-PREFIX`,
    `aws-secretsmanager://PREFIX` or `memory:`.

    By default SQLite in $STATE_DIRECTORY, else in `state_dir`."""
    url_file: Path | None = None
    """A file that holds the URL; the user and password in it are read again for every new connection."""
    encryption_keys: tuple[Path, ...] = ()
    """Files with keys to seal records and escrow with: the first seals what is new, all can open.

    A key is 32 random bytes, raw or as base64 or hex; a file may hold several, one a line. They are read again
    when they change. By default nothing is sealed."""
    require_encryption: bool = False
    """Refuse records and escrow that are in clear, so that nobody who may write to the store can slip one in.

    Switch it on when `token-sidecar store rekey` has sealed every record."""
    delete_dead: bool = False
    """`aws-secretsmanager://` only: delete the secret of a grant that the provider has declared dead, with no way
    back, so that whoever reads it finds that the user has to connect again."""

    def __repr__(self) -> str:
        """Hide the URL: it may hold a password."""
        return "StoreSettings(...)"

    @property
    def scheme(self) -> str:
        """Which kind of store it is."""
        return (self.url or "").partition(":")[0]

    @property
    def identity(self) -> str:
        """The URL, without the login where that may change in `url_file`."""
        url = self.url or ""
        return url if self.url_file is None else re.sub("//[^@/]*@", "//", url)

    @property
    def shared(self) -> bool:
        """Whether daemons with other configurations may keep records there too."""
        return self.scheme in {"postgres", "postgresql", "kubernetes", "aws-secretsmanager"}

    @property
    def sqlite_path(self) -> Path | None:
        """The database file; None where the store is no SQLite database."""
        scheme, _, rest = (self.url or "").partition(":")
        if scheme != "sqlite":
            return None
        return Path(rest.removeprefix("//") if rest.startswith("///") else rest)


class ServerSettings(Group, frozen=True, kw_only=True):
    """The HTTP server of probes, metrics and status."""

    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """The address to listen on; `::` for all."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 9640
    """0 takes any free port."""


class ControlSettings(Group, frozen=True, kw_only=True):
    """The control socket in `state_dir`."""

    mode: FileMode = msgspec.field(default_factory=lambda: FileMode(0o600))
    """The socket's permission bits: who may connect may refresh and read tokens."""
    group: str | int | None = None
    """Group name or numeric id."""


class LogSettings(Group, frozen=True, kw_only=True):
    """Logging, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""
    format: Literal["json", "console"] | None = None
    """By default `console` on a terminal and `json` elsewhere."""


class ConsoleProxy(Group, frozen=True, kw_only=True):
    """A reverse proxy that signs people in, such as oauth2-proxy, and says in a header who they are."""

    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """Addresses and networks (`10.0.0.7`, `10.1.0.0/16`) that its requests come from; others are turned away."""
    user_header: str = "X-Forwarded-Email"
    """The header that names who is signed in. The proxy has to replace whatever a browser sends under it."""
    groups_header: str | None = None
    """The header with their groups, separated by commas, such as `X-Forwarded-Groups`."""


class Operators(Group, frozen=True, kw_only=True):
    """Who may see and renew every token; everybody else that the proxy signs in may connect accounts of their own."""

    users: tuple[str, ...] = ()
    """As the proxy names them; `"*"` means everybody whom it lets through."""
    groups: tuple[str, ...] = ()
    """Groups of the proxy's `groups_header`."""


class ConsoleSettings(Group, frozen=True, kw_only=True):
    """`token-sidecar console`, the web page for operators and for users who connect accounts of their own."""

    host: Annotated[str, msgspec.Meta(min_length=1)] = "127.0.0.1"
    """The address to listen on; others than the loopback need `proxy`."""
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 9641
    """0 takes any free port."""
    url: str | None = None
    """Where browsers reach it, such as `https://tokens.example.com`, without a path. Providers send them back to
    `URL/callback/PROVIDER` (`URL/callback/tokens/NAME` where a token's provider is written out in place), which has to
    be registered there, and alerts lead to `URL/tokens/NAME`. By default the address that is listened on."""
    proxy: ConsoleProxy | None = None
    """Who signs people in. Without it, whoever opens the link that the command prints is signed in, once."""
    operators: Operators = Operators()
    """Which of the people that the proxy signs in are operators."""
    secret_file: Path | None = None
    """At least 32 random bytes to sign sessions and forms with, so that they outlive a restart; by default new ones at
    each start. Only the console reads it."""
    session: Duration = msgspec.field(default_factory=lambda: Duration(8 * 3600))
    """How long somebody stays signed in."""


class AuditSettings(Group, frozen=True, kw_only=True):
    """The record of who did what, and of what became of each grant; see the reference of the audit log."""

    file: Path | None = None
    """JSON lines are appended here; by default they go to the log. Daemon, console and commands may share it."""
    rotations: bool | None = None
    """Whether each refresh that succeeds has a line, with the fingerprints before and after. By default where there is
    a `file`: the log has a line for each turn anyway. For a hundred thousand accounts that is over a gigabyte a day."""

    @property
    def tells_rotations(self) -> bool:
        """`rotations`, or what follows from the rest."""
        return self.file is not None if self.rotations is None else self.rotations


class TracingSettings(Group, frozen=True, kw_only=True):
    """OpenTelemetry: a trace of each turn that did something, sent as OTLP over HTTP. Needs the extra `otel`."""

    enabled: bool = False
    """Whether traces are made. Where they go and how many of them, the usual variables of the environment say:
    `OTEL_EXPORTER_OTLP_ENDPOINT` (by default `http://localhost:4318`), `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
    `OTEL_TRACES_SAMPLER` and so on."""


class ConfigFile(Group, frozen=True, kw_only=True):
    """The configuration file as it is written."""

    namespace: Name = "default"
    """Records are keyed `namespace/token`; must be given where the store is shared (`postgresql://`,
    `kubernetes://`, `aws-secretsmanager://`)."""
    state_dir: Path | None = None
    """Private to the daemon: escrow, output index, lock, control socket. Never mount it into the application.

    By default the first of $RUNTIME_DIRECTORY, `/run/token-sidecar` (if it can be written),
    $XDG_RUNTIME_DIR/token-sidecar and a directory of the user's own under the temporary directory."""
    store: StoreSettings = StoreSettings()
    """Where records are kept: a URL, or `{url}` or `{url_file}`, with `encryption_keys` if they are to be sealed."""
    server: ServerSettings = ServerSettings()
    """The HTTP server of probes, metrics and status."""
    control: ControlSettings = msgspec.field(default_factory=ControlSettings)
    """The control socket in `state_dir`."""
    log: LogSettings = LogSettings()
    """Logging."""
    audit: AuditSettings = AuditSettings()
    """The record of who did what."""
    tracing: TracingSettings = TracingSettings()
    """Where the time of a turn went, for a tracing system."""
    console: ConsoleSettings = msgspec.field(default_factory=ConsoleSettings)
    """`token-sidecar console`: the web page."""
    providers: dict[Name, ProviderSettings] = {}
    """Profiles of your own by name, or changes to built-in ones."""
    defaults: TokenSettings | None = None
    """Any key of a token: it counts for every token that doesn't have that key itself."""
    tokens: Annotated[dict[Name, TokenSettings | None], msgspec.Meta(min_length=1)]
    """The tokens to keep fresh, by name."""
    allow_volatile_store: bool = False
    """Accept rotating refresh tokens in a store that dies with the pod; then a human must consent again."""
    allow_insecure_http: bool = False
    """Accept token endpoints without TLS that are not on loopback."""
    max_workers: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 8
    """How many tokens are worked on at the same time."""


class Settings(Group, frozen=True, kw_only=True):
    """A whole configuration, with every default filled in and every token's profile resolved."""

    path: Path
    """The file it was read from."""
    tokens: dict[str, TokenSettings]
    """Those that are no sets, by name."""
    sets: dict[str, TokenSettings] = {}
    """Those with `for_each`, by name, with `{account}` where each account's name belongs."""
    profiles: dict[str, Profile]
    """Name of a token or set → its profile, with the token's own `grant` and `client.auth_method` applied."""
    provider_names: dict[str, str]
    """Name of a token or set → the name of its profile, for labels; `inline` where it has none."""
    keys: dict[str, str] = {}
    """Token name → key in the store, for members of sets that were resolved by `only`."""
    own_profiles: dict[str, Profile] = {}
    """Name → each profile of the file's own `providers`, used or not."""
    namespace: str = "default"
    state_dir: Path
    store: StoreSettings
    """Its `url` is always set: `memory:`, `sqlite://` and an absolute path, or a libpq URL."""
    server: ServerSettings = ServerSettings()
    control: ControlSettings = msgspec.field(default_factory=ControlSettings)
    log: LogSettings = LogSettings()
    audit: AuditSettings = AuditSettings()
    tracing: TracingSettings = TracingSettings()
    console: ConsoleSettings = msgspec.field(default_factory=ConsoleSettings)
    allow_volatile_store: bool = False
    allow_insecure_http: bool = False
    max_workers: int = 8

    @property
    def entries(self) -> dict[str, TokenSettings]:
        """Everything under `tokens` in the file: tokens and sets."""
        return {**self.tokens, **self.sets}

    @property
    def counted(self) -> str:
        """How many tokens and sets there are, in words."""
        counts = ((len(self.tokens), "token"), (len(self.sets), "set"))
        told = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts if count]
        return " and ".join(told) or "no token"

    def resolve(self, name: str) -> Resolved:
        """Find a token, be it plain or the member `SET/ACCOUNT` of a set, whether or not that account is there.

        Raises `UnknownToken`, and `ConfigError` for an account whose name has no place in the set's settings.
        """
        if name in self.tokens:
            profile, provider = self.profiles[name], self.provider_names[name]
            return Resolved(name, self.tokens[name], profile, provider, self.key_of(name))
        of, slash, account = name.partition(members.SLASH)
        if not slash or of not in self.sets:
            known = (
                ", ".join([*sorted(self.tokens), *(f"{of}/ACCOUNT" for of in sorted(self.sets))]) or "none"
            )
            raise UnknownToken(f"no token is called {name[:300]!r}; the configuration has: {known}")
        # One object for all members, and not a piece of each name.
        of = sys.intern(of)
        own = members.expanded(self.sets[of], account)
        key = self.key_of(name)
        return Resolved(
            name, own, self.profiles[of], self.provider_names[of], key, of_set=of, account=account
        )

    def only(self, name: str) -> Settings:
        """Leave out all other tokens; a member of a set is as good as a plain one then. Raises as `resolve` does."""
        found = self.resolve(name)
        return msgspec.structs.replace(
            self,
            tokens={name: found.settings},
            sets={},
            profiles={name: found.profile},
            provider_names={name: found.provider},
            keys={name: found.key},
        )

    def key_of(self, name: str) -> str:
        """Return the key in the store of a token that `resolve` knows."""
        of, slash, account = name.partition(members.SLASH)
        if slash and of in self.sets:
            return self.prefix_of(of) + account
        return self.keys.get(name, f"{self.namespace}/{name}")

    def prefix_of(self, of: str) -> str:
        """Return what the keys of a set's members begin with, in the store."""
        chosen = self.sets[of].for_each
        return f"{self.namespace}/{(chosen and chosen.store) or of + members.SLASH}"

    def name_of(self, key: str) -> str | None:
        """Return the name of the token that has this key in the store; None: it is none of this configuration's."""
        for of in self.sets:
            account = key.removeprefix(self.prefix_of(of))
            if account != key and not members.problem_of(account):
                return f"{of}{members.SLASH}{account}"
        return next((name for name in self.tokens if self.key_of(name) == key), None)


class Resolved(msgspec.Struct, frozen=True):
    """All that the configuration says of one token."""

    name: str
    settings: TokenSettings
    """With the account's name put in, for a member of a set."""
    profile: Profile
    provider: str
    """The name of its profile, for labels."""
    key: str
    """In the store."""
    of_set: str = ""
    """The set that it is a member of; empty: it is a plain token."""
    account: str = ""
