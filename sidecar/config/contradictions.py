"""What can't be right whatever the machine looks like: keys and values that contradict each other."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from sidecar.config.context import Context
from sidecar.config.settings import OnDead, OutputTarget, Settings, StoreSettings, TokenSettings
from sidecar.profile import AuthMethod, GrantType, Profile, Rotation

Steps = tuple[str | int, ...]


def check(settings: Settings, context: Context) -> None:
    """Report every contradiction."""
    for name, token in settings.tokens.items():
        steps = ("tokens", name)
        profile = settings.profiles.get(name)
        _scopes(token, steps, context)
        _client(token, profile, steps, context)
        _durations(token, profile, steps, context)
        for index, output in enumerate(token.outputs):
            _output(output, profile, (*steps, "outputs", index), context)
        if not token.outputs:
            _no_outputs(steps, context)
        if profile is not None:
            _profile(name, settings, context)
    for check_uniqueness in (_outputs_apart, _seeds_apart):
        check_uniqueness(settings, context)
    if settings.store.shared:
        _shared_store(settings.store, context)
    _strictness(settings.store, context)
    _listening(settings, context)


def _scopes(token: TokenSettings, steps: Steps, context: Context) -> None:
    for index, scope in enumerate(token.scopes):
        place = (*steps, "scopes", index)
        if scope in token.scopes[:index]:
            context.error(place, f"is the same scope as scopes[{token.scopes.index(scope)}]; remove one")
        if not re.fullmatch(r"[\x21\x23-\x5B\x5D-\x7E]+", scope):  # RFC 6749 §3.3
            context.error(
                place, "is no single scope; write one scope per list item, without spaces or quotes"
            )


def _client(token: TokenSettings, profile: Profile | None, steps: Steps, context: Context) -> None:
    client, place = token.client, (*steps, "client")
    exclusive = (
        ("file", "id"),
        ("file", "id_file"),
        ("id", "id_file"),
        ("file", "secret"),
        ("file", "secret_file"),
    )
    for one, other in (*exclusive, ("secret", "secret_file")):
        if getattr(client, one) is not None and getattr(client, other) is not None:
            context.error((*place, other), f"contradicts `{one}`, which says the same; keep one of the two")
    if client.file is None and not client.id and client.id_file is None:
        context.missing(place, "has no client id; add `file` (Google's credentials.json), `id` or `id_file`")
    if profile is not None:
        _client_secret(token, profile, place, context)


def _client_secret(token: TokenSettings, profile: Profile, place: Steps, context: Context) -> None:
    client = token.client
    secret = next((key for key in ("secret", "secret_file") if getattr(client, key) is not None), None)
    public = profile.auth_method is AuthMethod.NONE
    if public and secret is not None:
        text = (
            "is given, but `auth_method: none` sends none; remove one, or write client_secret_post or _basic"
        )
        context.error((*place, secret), text)
    if public and profile.grant is GrantType.CLIENT_CREDENTIALS:
        context.error(
            (*place, "auth_method"), "is none, but client_credentials needs a client that has a secret"
        )
    if (
        not public
        and secret is None
        and client.file is None
        and not context.report.spoilt(context.mark(place).label)
    ):
        text = f"has no secret for {profile.auth_method}; add `secret_file`, or `auth_method: none` if public"
        context.warning(place, text)


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


def _output(output: OutputTarget, profile: Profile | None, steps: Steps, context: Context) -> None:
    if output.adopt and not output.include_refresh_token:
        text = "needs `include_refresh_token: true`: without one the application can't refresh by itself"
        context.error((*steps, "adopt"), text)
    if output.include_refresh_token and output.format in {"raw", "header"}:
        text = f"can't be: the format {output.format} holds the access token alone; remove this key"
        context.error((*steps, "include_refresh_token"), text)
    if output.include_refresh_token and profile is not None:
        _refresh_token_outside(profile, steps, context)
    if output.fields is not None and output.format != "json":
        context.error((*steps, "fields"), f"is for `format: json` only, not for {output.format}; remove it")
    for key in ("owner", "group"):
        identity = getattr(output, key)
        if isinstance(identity, int) and not 0 <= identity < 2**32 - 1:
            context.error((*steps, key), "is no numeric id; ids go from 0 to 4294967294")


def _refresh_token_outside(profile: Profile, steps: Steps, context: Context) -> None:
    place = (*steps, "include_refresh_token")
    if profile.grant is not GrantType.REFRESH_TOKEN:
        context.error(place, f"can't be: the grant {profile.grant} has no refresh token; remove this key")
    elif profile.rotation is not Rotation.NEVER:
        known = "rotates" if profile.rotation is not Rotation.UNKNOWN else "may rotate"
        text = f"is refused: this provider {known} refresh tokens, and one used elsewhere kills the grant"
        context.error(
            place, f"{text}; remove this key, or set the profile's `rotation: never` if you know better"
        )


def _profile(name: str, settings: Settings, context: Context) -> None:
    token, profile = settings.tokens[name], settings.profiles[name]
    steps = ("tokens", name)
    if token.seed is not None and profile.grant is not GrantType.REFRESH_TOKEN:
        context.error(
            (*steps, "seed"), f"has no use: the grant {profile.grant} needs no refresh token; remove one"
        )
    provider = settings.provider_names[name]
    own = context.tree.get("providers")
    place: Steps = ("providers", provider) if own is not None and own.get(provider) else (*steps, "provider")
    if not profile.token_url:
        context.missing(
            (*place, "token_url"), "is missing; this profile doesn't know its token endpoint, so name it"
        )
    for key in ("token_url", "revocation_url"):
        if getattr(profile, key):
            _url(getattr(profile, key), (*place, key), settings, context)
    for index, rule in enumerate(profile.errors):
        if rule.description is not None and not _compiles(rule.description):
            context.error(
                (*place, "errors", index, "description"), "is no regular expression; check the brackets"
            )


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
    try:
        parts = urlsplit(store.url or "")
    except ValueError:
        return  # its adapter says what is wrong
    hosts = re.findall(r"(\[[^]]*\]|[^:,]+)(?::[0-9]*)?(?:,|$)", parts.netloc.rpartition("@")[2])
    near = all(is_loopback(host.strip("[]")) or host.lower().startswith("%2f") for host in hosts)
    sslmode = dict(parse_qsl(parts.query)).get("sslmode", context.env.get("PGSSLMODE", "prefer"))
    if not near and sslmode not in {"verify-ca", "verify-full"}:
        text = f"sslmode is {sslmode}, so that anybody on the way may read refresh tokens; write sslmode=verify-full"
        context.warning(("store",), text)


def _strictness(store: StoreSettings, context: Context) -> None:
    if store.require_encryption and not store.encryption_keys:
        text = "needs keys; name files with keys under encryption_keys, or leave it out"
        context.error(("store", "require_encryption"), text)


def _outputs_apart(settings: Settings, context: Context) -> None:
    taken = dict(_inputs(settings))
    state_dir = Path(os.path.realpath(settings.state_dir))
    for steps, output in outputs(settings):
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


def outputs(settings: Settings) -> Iterator[tuple[Steps, OutputTarget]]:
    """Go through all outputs, each with its place in the file."""
    for name, token in settings.tokens.items():
        for index, output in enumerate(token.outputs):
            yield ("tokens", name, "outputs", index), output


def _inputs(settings: Settings) -> Iterator[tuple[Path, str]]:
    """Go through all files that no token may be written to, each with what it is."""
    yield spot(settings.path), "this configuration file"
    if settings.store.sqlite_path is not None:
        yield spot(settings.store.sqlite_path), "the store"
    if settings.store.url_file is not None:
        yield spot(settings.store.url_file), "store.url_file"
    for index, path in enumerate(settings.store.encryption_keys):
        yield spot(path), f"store.encryption_keys[{index}]"
    for name, token in settings.tokens.items():
        for key in ("file", "id_file", "secret_file"):
            path = getattr(token.client, key)
            if path is not None:
                yield spot(path), f"tokens.{name}.client.{key}"
        if token.seed is not None:
            yield spot(token.seed.file), f"tokens.{name}.seed"


def _seeds_apart(settings: Settings, context: Context) -> None:
    taken: dict[str, str] = {}
    for name, token in settings.tokens.items():
        if token.seed is None:
            continue
        place = os.path.realpath(token.seed.file)
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
