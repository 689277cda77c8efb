"""What can't be right whatever the machine looks like: keys and values that contradict each other."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from sidecar.config.aws import secrets_place
from sidecar.config.context import Context
from sidecar.config.report import looks_secret
from sidecar.config.settings import (
    Client,
    Command,
    Group,
    HttpCall,
    OnDead,
    OutputTarget,
    SecretKey,
    Settings,
    SqlCell,
    SqlOutput,
    StoreSettings,
    TokenSettings,
)
from sidecar.errors import ConfigError
from sidecar.profile import AuthMethod, BodyKind, GrantType, Profile, Rotation

Steps = tuple[str | int, ...]

_URLS = (
    "issuer",
    "token_url",
    "revocation_url",
    "introspection_url",
    "authorization_url",
    "device_authorization_url",
)
_IDENTIFIER_BYTES = 63
"""PostgreSQL cuts off what is longer, and may then mean another one."""
_FRAMING_HEADERS = {
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
_OUR_HEADERS = {"authorization", "content-type", "cookie", *_FRAMING_HEADERS}


def check(settings: Settings, context: Context) -> None:
    """Report every contradiction."""
    for name, token in settings.entries.items():
        steps = ("tokens", name)
        profile = settings.profiles.get(name)
        _scopes(token, steps, context)
        _resource(token, steps, context)
        _client(token, profile, steps, settings, context)
        if token.seed is not None:
            one_of(token.seed, token.seed.PLACES, (*steps, "seed"), context)
        _hooks(token, steps, settings, context)
        if profile is not None:
            _grants_own(token, profile, steps, context)
        _durations(token, profile, steps, context)
        for index, output in enumerate(token.outputs):
            _output(output, profile, (*steps, "outputs", index), context)
        if not token.outputs and settings.store.scheme != "aws-secretsmanager":  # read by others as it is
            _no_outputs(steps, context)
        if profile is not None:
            _profile(name, settings, context)
    for place, cell in cells(settings):
        _cell(cell, place, context)
    for check_uniqueness in (_outputs_apart, _secrets_apart, _aws_secrets_apart, _cells_apart, _seeds_apart):
        check_uniqueness(settings, context)
    if settings.store.shared:
        _shared_store(settings.store, context)
    _strictness(settings.store, context)
    _listening(settings, context)


def _scopes(token: TokenSettings, steps: Steps, context: Context) -> None:
    _scope_list(token.scopes, steps, context)
    for number, output in enumerate(token.outputs):
        _scope_list(output.scopes, (*steps, "outputs", number), context)


def _scope_list(scopes: tuple[str, ...], steps: Steps, context: Context) -> None:
    for index, scope in enumerate(scopes):
        place = (*steps, "scopes", index)
        if not context.given(place):
            continue  # an output's, which the token took over: that is where it is told of
        if scope in scopes[:index]:
            context.error(place, f"is the same scope as scopes[{scopes.index(scope)}]; remove one")
        if not re.fullmatch(r"[\x21\x23-\x5B\x5D-\x7E]+", scope):  # RFC 6749 §3.3
            context.error(
                place, "is no single scope; write one scope per list item, without spaces or quotes"
            )


def _resource(token: TokenSettings, steps: Steps, context: Context) -> None:
    if token.resource is not None and not re.fullmatch(
        r"[A-Za-z][A-Za-z0-9+.-]*:[\x21\x22\x24-\x7E]+", token.resource
    ):
        text = "is no whole URL without a #fragment (RFC 8707 §2); correct it, or write it as `audience`"
        context.error((*steps, "resource"), text)


def _client(
    token: TokenSettings, profile: Profile | None, steps: Steps, settings: Settings, context: Context
) -> None:
    client, place = token.client, (*steps, "client")
    exclusive = (
        ("file", "id"),
        ("file", "id_file"),
        ("id", "id_file"),
        ("file", "id_aws_secret"),
        ("id", "id_aws_secret"),
        ("id_file", "id_aws_secret"),
        ("file", "secret"),
        ("file", "secret_file"),
        ("file", "secret_files"),
        ("file", "private_key_file"),
        ("secret", "secret_file"),
        ("secret", "secret_files"),
        ("secret_file", "secret_files"),
    )
    for one, other in exclusive:
        if getattr(client, one) and getattr(client, other):
            context.error((*place, other), f"contradicts `{one}`, which says the same; keep one of the two")
    if client.redirect_uri is not None:
        _url(client.redirect_uri, (*place, "redirect_uri"), settings, context)
    if not (client.file or client.id or client.id_file or client.id_aws_secret):
        context.missing(place, "has no client id; add `file` (Google's credentials.json), `id` or `id_file`")
    if profile is not None and not _left_to_issuer(client, profile):
        _unused_proof(client, profile, place, context)
        _missing_proof(client, profile, place, context)


_SECRETS = ("secret", "secret_file", "secret_files")
_SIGNING = ("private_key_file", "certificate_file", "key_id", "signing_algorithm")
_USED = {
    AuthMethod.BASIC: _SECRETS,
    AuthMethod.POST: _SECRETS,
    AuthMethod.SECRET_JWT: (*_SECRETS, "key_id", "signing_algorithm"),
    AuthMethod.PRIVATE_KEY_JWT: _SIGNING,
    AuthMethod.TLS: ("certificate_file", "private_key_file"),
    AuthMethod.NONE: (),
}
"""What each way of authenticating makes use of."""


def _left_to_issuer(client: Client, profile: Profile) -> bool:
    """Tell whether the issuer says how clients authenticate, together with where the token endpoint is."""
    named = client.auth_method is not None or "auth_method" in profile.sources
    return bool(profile.issuer) and not profile.token_url and not profile.grant.is_signed and not named


def _unused_proof(client: Client, profile: Profile, place: Steps, context: Context) -> None:
    """Report what is given and would never be shown: somebody takes the client to be proved by it."""
    method, signed = profile.auth_method, profile.grant.is_signed
    by_grant = signed and not client.auth_method
    used = {*(() if by_grant else _USED[method]), *(_SIGNING if signed else ())}
    if signed and not client.private_key_file:
        used |= {*_SECRETS}  # it signs with that
    for key in (*_SECRETS, *_SIGNING):
        if not getattr(client, key) or key in used:
            continue
        if by_grant:
            text = "`private_key_file` signs already; remove one, or say by `auth_method` how it is shown"
        elif key in _SECRETS:
            text = f"`auth_method: {method}` sends none; remove one, or write client_secret_post or _basic"
        elif key == "certificate_file":
            text = (
                f"`auth_method: {method}` shows none; remove it, or write tls_client_auth or private_key_jwt"
            )
        else:
            text = f"`auth_method: {method}` signs nothing; remove it, or write private_key_jwt"
        context.error((*place, key), f"is given, but {text}")


def _missing_proof(client: Client, profile: Profile, place: Steps, context: Context) -> None:
    """Report what a client can't prove itself without."""
    method, has_secret = profile.auth_method, any(getattr(client, key) for key in _SECRETS)
    where = (*place, "auth_method") if client.auth_method else place
    if profile.grant.is_signed:
        _missing_key(client, profile, place, context)
        if not client.auth_method:
            return  # the grant's own assertion says who the client is
    if method is AuthMethod.PRIVATE_KEY_JWT and not (client.private_key_file or client.file):
        context.error(where, f"{method} signs with a private key, and there is none; add `private_key_file`")
    elif method is AuthMethod.TLS and not client.certificate_file:
        context.error(where, f"{method} shows a certificate, and there is none; add `certificate_file`")
    elif method is AuthMethod.TLS and profile.token_url.startswith("http:"):
        context.error(where, f"{method} is a part of TLS, and the token endpoint has none; write https")
    elif method is AuthMethod.NONE and profile.grant is GrantType.CLIENT_CREDENTIALS:
        context.error(
            (*place, "auth_method"), "is none, but client_credentials needs a client that has a secret"
        )
    elif (
        method.takes_secret
        and not has_secret
        and client.file is None
        and not context.report.spoilt(context.mark(place).label)
    ):
        text = f"has no secret for {method}; add `secret_file`, or `auth_method: none` if public"
        context.warning(place, text)


def _missing_key(client: Client, profile: Profile, place: Steps, context: Context) -> None:
    if client.private_key_file or context.report.spoilt(context.mark(place).label):
        return
    if profile.grant is GrantType.GITHUB_INSTALLATION:
        context.missing(
            place, "has no key to sign with; add `private_key_file`, the GitHub App's private key"
        )
    elif client.file is None and not any(getattr(client, key) for key in _SECRETS):
        text = "has no key to sign with; add `file` (a Google service account's key) or `private_key_file`"
        context.missing(place, text)


def _grants_own(token: TokenSettings, profile: Profile, steps: Steps, context: Context) -> None:
    """Report keys that belong to one grant and stand beside another."""
    for key, grant in (
        ("subject", GrantType.JWT_BEARER),
        ("installation", GrantType.GITHUB_INSTALLATION),
    ):
        if getattr(token, key) is not None and profile.grant is not grant:
            text = f"is for `grant: {grant}` alone, and this token's is {profile.grant}; remove it, or set `grant`"
            context.error((*steps, key), text)
    if profile.grant is GrantType.GITHUB_INSTALLATION and not token.installation:
        text = (
            "is missing; give its number, which is at the end of the URL of the app's installation at GitHub"
        )
        context.missing((*steps, "installation"), text)


def _durations(token: TokenSettings, profile: Profile | None, steps: Steps, context: Context) -> None:
    for key in ("min_interval", "lease", "request_timeout", "refresh_token_ttl"):
        if getattr(token, key) == 0:
            context.error((*steps, key), "is 0; it must be longer")
    if token.lease and token.request_timeout and token.request_timeout >= token.lease:
        text = (
            f"must be shorter than `lease` ({token.lease:g}s), in which the request is sent; a third is good"
        )
        context.error((*steps, "request_timeout"), text)
    if token.dead_grace is not None and token.on_dead is not OnDead.RESTART:
        context.warning((*steps, "dead_grace"), f"has no effect with `on_dead: {token.on_dead}`; remove it")
    if profile is not None:
        _against_profile(token, profile, steps, context)


def _against_profile(token: TokenSettings, profile: Profile, steps: Steps, context: Context) -> None:
    ttl = profile.default_ttl
    if ttl and (token.min_validity or 0) > ttl / 2:
        text = f"is more than half of the {ttl:g}s that tokens live here; half will be used"
        context.warning((*steps, "min_validity"), text)
    if ttl and (token.min_interval or 0) >= ttl:
        text = f"must be shorter than the {ttl:g}s that tokens live here, or they expire before each refresh"
        context.error((*steps, "min_interval"), text)
    if ttl and (token.lease or 0) >= ttl / 2:
        text = (
            f"is half of the {ttl:g}s that tokens live here, or more: too long to wait for if its holder dies"
        )
        context.warning((*steps, "lease"), text)
    if profile.grace and (token.lease or 0) > profile.grace / 2:
        text = f"is more than half of the provider's grace ({profile.grace:g}s): a lost answer may stay lost"
        context.warning((*steps, "lease"), text)


def _no_outputs(steps: Steps, context: Context) -> None:
    if not context.report.spoilt(context.mark((*steps, "outputs")).label):
        text = "there are none, so only `token-sidecar token` hands this token out; add {file: PATH}"
        context.warning((*steps, "outputs"), text)


def one_of(group: Group, choices: Sequence[str], steps: Steps, context: Context) -> None:
    """Report a group that has not exactly one of these keys, unless what it has was reported as wrong."""
    given = [key for key in choices if getattr(group, key) is not None]
    if len(given) > 1:
        context.error(
            steps, f"has both `{given[0]}` and `{given[1]}`; keep one, and give the other an item of its own"
        )
    elif not given and not context.report.spoilt(context.mark(steps).label):
        context.error(steps, f"is incomplete; add {' or '.join(f'`{key}`' for key in choices)}")


def _hooks(token: TokenSettings, steps: Steps, settings: Settings, context: Context) -> None:
    labels: list[str] = []
    for index, hook in enumerate(token.after_refresh):
        place, restart = (*steps, "after_refresh", index), hook.rollout_restart
        one_of(hook, hook.PLACES, place, context)
        if not hook.timeout:
            context.error((*place, "timeout"), "is 0; it must be longer")
        if hook.http is not None:
            _http_call(hook.http, (*place, "http"), settings, context)
        if hook.exec is not None:
            _command(hook.exec, (*place, "exec"), context)
        if hook.signal is not None:
            one_of(hook.signal, hook.signal.TARGETS, (*place, "signal"), context)
        if hook.label in labels and (restart is None or hook.name is not None):
            other = f"after_refresh[{labels.index(hook.label)}]"
            context.error(place, f"is called {hook.label!r}, as {other} is; remove one, or give it a `name`")
        labels.append(hook.label)
        if restart is not None:
            one_of(restart, restart.WORKLOADS, (*place, "rollout_restart"), context)
            others = [other.rollout_restart for other in token.after_refresh[:index]]
            if restart in others:
                text = f"restarts what after_refresh[{others.index(restart)}] restarts; remove one"
                context.error((*place, "rollout_restart"), text)


def _http_call(call: HttpCall, steps: Steps, settings: Settings, context: Context) -> None:
    _url(call.url, (*steps, "url"), settings, context)
    if any(looks_secret(value) for _, value in parse_qsl(urlsplit(call.url).query)):
        text = "has what looks like a secret in its query, which servers write into their logs; use `headers`"
        context.warning((*steps, "url"), text)
    _headers(call.headers, _FRAMING_HEADERS, (*steps, "headers"), context)
    if call.body is not None and call.method in {"GET", "DELETE"}:
        context.error(
            (*steps, "body"), f"can't be sent: {call.method} has none; remove it, or write another method"
        )


def _command(command: Command, steps: Steps, context: Context) -> None:
    if not command.argv[0].startswith("/"):
        text = "is no whole path, and no shell looks for the program; write it like /usr/bin/systemctl"
        context.error((*steps, "argv", 0), text)


def _output(output: OutputTarget, profile: Profile | None, steps: Steps, context: Context) -> None:
    one_of(output, output.PLACES, steps, context)
    if output.file is None:
        for key in output.FOR_FILES:
            if context.given((*steps, key)):
                context.error((*steps, key), "is for files only; remove it")
    if output.adopt and not output.include_refresh_token:
        text = "needs `include_refresh_token: true`: without one the application can't refresh by itself"
        context.error((*steps, "adopt"), text)
    if output.include_refresh_token and output.format in {"raw", "header"}:
        text = f"can't be: the format {output.format} holds the access token alone; remove this key"
        context.error((*steps, "include_refresh_token"), text)
    if output.include_refresh_token and profile is not None:
        _refresh_token_outside(profile, steps, context)
    if output.fields is not None and output.format not in {"json", "dotenv"}:
        text = f"is for `format: json` and `dotenv` only, not for {output.format}; remove it"
        context.error((*steps, "fields"), text)
    for key in ("owner", "group"):
        identity = getattr(output, key)
        if isinstance(identity, int) and not 0 <= identity < 2**32 - 1:
            context.error((*steps, key), "is no numeric id; ids go from 0 to 4294967294")


def _cell(cell: SqlCell, steps: Steps, context: Context) -> None:
    one_of(cell, cell.LOCATIONS, steps, context)
    if cell.url is not None:
        _database(cell.url, (*steps, "url"), "tokens", context)
    named: list[tuple[Steps, str]] = [((*steps, "where", name), name) for name in cell.where]
    named.append(((*steps, "column"), cell.column))
    if isinstance(cell, SqlOutput) and cell.updated_column is not None:
        named.append(((*steps, "updated_column"), cell.updated_column))
    for index, (place, name) in enumerate(named):
        if name in [other for _, other in named[:index]]:
            context.error(place, f"{name} is named twice here; each column has one use")
    if not cell.relation:
        text = "is no table's name; write TABLE or SCHEMA.TABLE, a part with a dot or quote in it as in SQL"
        context.error((*steps, "table"), text)
    for place, name in [*named, *(((*steps, "table"), part) for part in cell.relation)]:
        if not name or "\0" in name or len(name.encode(errors="replace")) > _IDENTIFIER_BYTES:
            context.error(place, f"is no name that a database has: of 1 to {_IDENTIFIER_BYTES} bytes")


def _refresh_token_outside(profile: Profile, steps: Steps, context: Context) -> None:
    place = (*steps, "include_refresh_token")
    if not profile.needs_refresh_token:
        context.error(place, f"can't be: the grant {profile.grant} has no refresh token; remove this key")
    elif profile.rotation is not Rotation.NEVER:
        known = "rotates" if profile.rotation is not Rotation.UNKNOWN else "may rotate"
        text = f"is refused: this provider {known} refresh tokens, and one used elsewhere kills the grant"
        context.error(
            place, f"{text}; remove this key, or set the profile's `rotation: never` if you know better"
        )


def _profile(name: str, settings: Settings, context: Context) -> None:
    token, profile = settings.entries[name], settings.profiles[name]
    steps = ("tokens", name)
    if token.seed is not None and not profile.needs_refresh_token:
        context.error(
            (*steps, "seed"), f"has no use: the grant {profile.grant} needs no refresh token; remove one"
        )
    _subject_token(token, profile, steps, context)
    provider = settings.provider_names[name]
    own = context.tree.get("providers")
    place: Steps = ("providers", provider) if own is not None and own.get(provider) else (*steps, "provider")
    if not profile.token_url and not profile.issuer:
        context.missing(
            (*place, "token_url"),
            "is missing; this profile doesn't know its token endpoint, so name it, or its `issuer`",
        )
    elif profile.grant is GrantType.GITHUB_INSTALLATION and "{installation}" not in profile.token_url:
        text = "must have {installation} where the installation's number belongs"
        context.error((*place, "token_url"), text)
    for key in _URLS:
        if getattr(profile, key):
            _url(getattr(profile, key), (*place, key), settings, context)
    if re.search(r"[?#]", profile.issuer):
        context.error(
            (*place, "issuer"), "has a ?query or #fragment, and no issuer has (RFC 8414 §2); remove it"
        )
    _request(profile, place, context)
    for index, rule in enumerate(profile.errors):
        if rule.description is not None and not _compiles(rule.description):
            context.error(
                (*place, "errors", index, "description"), "is no regular expression; check the brackets"
            )


def _subject_token(token: TokenSettings, profile: Profile, steps: Steps, context: Context) -> None:
    trades = profile.grant is GrantType.TOKEN_EXCHANGE
    if trades and token.subject_token is None:
        context.missing(
            (*steps, "subject_token"), "is missing; name the file with the token that is traded in"
        )
    if token.subject_token is not None and not trades:
        text = f"has no use: the grant {profile.grant} trades nothing in; remove it, or write `grant: token_exchange`"
        context.error((*steps, "subject_token"), text)


def _request(profile: Profile, place: Steps, context: Context) -> None:
    """Check the shape of a token request."""
    if profile.method == "GET" and profile.body is not BodyKind.QUERY:
        context.error(
            (*place, "method"), "is GET, which has no body; write `body: query` too, or remove `method`"
        )
    names = list(profile.param_names.values())
    for ours, theirs in profile.param_names.items():
        if not theirs or names.count(theirs) > 1:
            text = (
                "has no name; write what the provider calls it"
                if not theirs
                else f"is a second `{theirs}`; rename one"
            )
            context.error((*place, "param_names", ours), text)
    _headers(profile.extra_headers, _OUR_HEADERS, (*place, "extra_headers"), context)


def _headers(headers: Mapping[str, str], ours: AbstractSet[str], place: Steps, context: Context) -> None:
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not re.fullmatch(r"[\x20-\x7E]*", value):
            context.error((*place, name), "is no header of one line; correct it")
        elif name.lower() in ours:
            context.error((*place, name), "is set by the daemon alone; remove it")


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


def _url(url: str, place: Steps, settings: Settings, context: Context) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if host is None or parts.scheme not in {"http", "https"} or not re.fullmatch(r"[\x21-\x7E]+", url):
        context.error(place, "is no URL; write it like https://host/path")
    elif parts.username is not None or parts.fragment:
        context.error(place, "must hold no user name, password or #fragment (RFC 6749 §3.2); remove it")
    elif parts.scheme == "http" and not is_loopback(host) and not settings.allow_insecure_http:
        text = (
            f"would send secrets to {host} in clear; write https, or accept it: `allow_insecure_http: true`"
        )
        context.error(place, text)


def is_loopback(host: str) -> bool:
    """Tell whether a URL's host is certainly this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def spot(path: Path) -> Path:
    """Name a file by its directory's real path, so that two ways to one file are seen to be one."""
    return Path(os.path.realpath(path.parent)) / path.name


def _shared_store(store: StoreSettings, context: Context) -> None:
    if context.tree.get("namespace") is None:
        text = "is missing; a store that others use too tells records apart by it: name this application"
        context.missing(("namespace",), text)
    if store.scheme.startswith("postgres"):
        _database(store.url or "", ("store",), "refresh tokens", context)


def _database(url: str, steps: Steps, what: str, context: Context) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return  # its adapter says what is wrong
    hosts = re.findall(r"(\[[^]]*\]|[^:,]+)(?::[0-9]*)?(?:,|$)", parts.netloc.rpartition("@")[2])
    near = all(is_loopback(host.strip("[]")) or host.lower().startswith("%2f") for host in hosts)
    sslmode = dict(parse_qsl(parts.query)).get("sslmode", context.env.get("PGSSLMODE", "prefer"))
    if not near and sslmode not in {"verify-ca", "verify-full"}:
        text = f"sslmode is {sslmode}, so that anybody on the way may read {what}; write sslmode=verify-full"
        context.warning(steps, text)


def _strictness(store: StoreSettings, context: Context) -> None:
    if store.require_encryption and not store.encryption_keys:
        text = "needs keys; name files with keys under encryption_keys, or leave it out"
        context.error(("store", "require_encryption"), text)
    in_aws = store.scheme == "aws-secretsmanager"
    if in_aws and store.encryption_keys:
        text = (
            "seal nothing here: others read the tokens of an aws-secretsmanager:// store in clear, and AWS encrypts "
            "them with KMS; leave the keys out, and keep state_dir in memory"
        )
        context.error(("store", "encryption_keys"), text)
    if store.delete_dead and not in_aws:
        context.error(("store", "delete_dead"), "is for aws-secretsmanager:// stores only; remove it")


def _outputs_apart(settings: Settings, context: Context) -> None:
    taken = dict(inputs(settings))
    state_dir = Path(os.path.realpath(settings.state_dir))
    for steps, output in outputs(settings):
        if output.file is None:
            continue
        place = spot(output.file)
        owner = taken.get(place)
        if owner is not None:
            context.error((*steps, "file"), f"{place} is also {owner}; write the token to a file of its own")
        elif place.is_relative_to(state_dir):
            text = (
                f"is inside state_dir ({state_dir}), which is private to the daemon; choose another directory"
            )
            context.error((*steps, "file"), text)
        taken.setdefault(place, context.mark(steps).label)


def _aws_secrets_apart(settings: Settings, context: Context) -> None:
    taken: dict[str, str] = {}
    for name, token in settings.entries.items():
        if settings.store.scheme == "aws-secretsmanager" and token.for_each is None:
            with suppress(ConfigError):  # its adapter says what is wrong
                place = secrets_place(settings.store.url or "")
                taken[place.secret_of(f"{settings.namespace}/{name}")] = f"where the store keeps `{name}`"
        if token.seed is not None and token.seed.aws_secret is not None:
            taken.setdefault(token.seed.aws_secret.name, f"tokens.{name}.seed")
        if token.client.id_aws_secret is not None:
            taken.setdefault(token.client.id_aws_secret, f"tokens.{name}.client.id_aws_secret")
    for steps, output in outputs(settings):
        if output.aws_secret is None:
            continue
        secret = output.aws_secret.name
        if secret in taken:
            text = f"{secret} is also {taken[secret]}; write the token to a secret of its own"
            context.error((*steps, "aws_secret"), text)
        taken.setdefault(secret, context.mark(steps).label)


def _secrets_apart(settings: Settings, context: Context) -> None:
    taken = {
        token.seed.kubernetes_secret: f"tokens.{name}.seed"
        for name, token in settings.entries.items()
        if token.seed is not None and token.seed.kubernetes_secret is not None
    }
    for steps, output in outputs(settings):
        place = output.kubernetes_secret
        if place is None:
            continue
        if place in taken:
            text = f"{place.name}/{place.key} is also {taken[place]}; write the token to a key of its own"
            context.error((*steps, "kubernetes_secret"), text)
        taken.setdefault(place, context.mark(steps).label)


def _cells_apart(settings: Settings, context: Context) -> None:
    taken = {
        token.seed.sql.cell: f"tokens.{name}.seed"
        for name, token in settings.entries.items()
        if token.seed is not None and token.seed.sql is not None
    }
    for steps, output in outputs(settings):
        if output.sql is None:
            continue
        if output.sql.cell in taken:
            text = (
                f"{output.sql.table} is written where {taken[output.sql.cell]} is; use another row or column"
            )
            context.error((*steps, "sql"), text)
        taken.setdefault(output.sql.cell, context.mark(steps).label)


def outputs(settings: Settings) -> Iterator[tuple[Steps, OutputTarget]]:
    """Go through all outputs, each with its place in the file."""
    for name, token in settings.entries.items():
        for index, output in enumerate(token.outputs):
            yield ("tokens", name, "outputs", index), output


def inputs(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Go through all files that no token may be written to, each with what it is."""
    yield spot(settings.path), "this configuration file"
    if settings.store.sqlite_path is not None:
        yield spot(settings.store.sqlite_path), "the store"
    if settings.store.url_file is not None:
        yield spot(settings.store.url_file), "store.url_file"
    for index, path in enumerate(settings.store.encryption_keys):
        yield spot(path), f"store.encryption_keys[{index}]"
    for name, token in settings.entries.items():
        for (key, *number), path in token.client.files.items():
            which = f"[{number[0]}]" if number else ""
            yield spot(path), f"tokens.{name}.client.{key}{which}"
        if token.seed is not None and token.seed.file is not None:
            yield spot(token.seed.file), f"tokens.{name}.seed"
        if token.subject_token is not None:
            yield spot(token.subject_token.file), f"tokens.{name}.subject_token"
    for steps, cell in cells(settings):
        if cell.url_file is not None:
            place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
            yield spot(cell.url_file), f"{place.removeprefix('.')}.url_file"


def cells(settings: Settings) -> Iterator[tuple[Steps, SqlCell]]:
    """Go through all that is named in databases of applications, each with its place in the file."""
    for name, token in settings.entries.items():
        if token.seed is not None and token.seed.sql is not None:
            yield ("tokens", name, "seed", "sql"), token.seed.sql
    for steps, output in outputs(settings):
        if output.sql is not None:
            yield (*steps, "sql"), output.sql


def _seeds_apart(settings: Settings, context: Context) -> None:
    taken: dict[str | SecretKey | tuple[str, ...], str] = {}
    for name, token in settings.entries.items():
        if token.seed is None:
            continue
        file, sql = token.seed.file, token.seed.sql
        if file is not None:
            place: str | SecretKey | tuple[str, ...] | None = os.path.realpath(file)
        elif token.seed.aws_secret is not None:
            place = ("aws", token.seed.aws_secret.name)
        else:
            place = token.seed.kubernetes_secret if sql is None else sql.cell
        if place is None:
            continue
        if place in taken:
            text = f"is the seed of `{taken[place]}` too; two tokens can't share a grant: give each its own"
            context.error(("tokens", name, "seed"), text)
        taken.setdefault(place, name)


def _listening(settings: Settings, context: Context) -> None:
    if not re.fullmatch(r"[A-Za-z0-9.:%_-]+", settings.server.host):
        context.error(("server", "host"), "is no host name or address; write it like 127.0.0.1 or ::")
    elif re.fullmatch(r"[^:]+:[0-9]+", settings.server.host):
        context.error(("server", "host"), "holds a port; write it under `port`")
    group = settings.control.group
    if isinstance(group, int) and not 0 <= group < 2**32 - 1:
        context.error(("control", "group"), "is no numeric id; ids go from 0 to 4294967294")
