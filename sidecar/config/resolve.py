"""`ConfigFile` → `Settings`: every default that depends on the environment, and every token's profile."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from sidecar import providers
from sidecar.config.context import Context
from sidecar.config.decode import absolute
from sidecar.config.settings import (
    ConfigFile,
    ConsoleSettings,
    ControlSettings,
    Duration,
    HookSettings,
    OnDead,
    OutputTarget,
    ProviderSettings,
    Settings,
    StoreSettings,
    TokenSettings,
)
from sidecar.profile import InDoubt, Profile, Rotation

INLINE = "inline"
_OWN = "the configuration"
STORE_FILE = "store.db"
_WAYS = (
    "sqlite:///absolute/path, sqlite:path, postgresql://USER@HOST/DATABASE, kubernetes://NAMESPACE/NAME-PREFIX, "
    "aws-secretsmanager://PREFIX or memory:"
)


def resolve(file: ConfigFile, context: Context) -> Settings:
    """Fill in what the file leaves out. What can't be worked out is reported, and left harmless."""
    own = _own_profiles(file, context)
    entries = {name: token or TokenSettings() for name, token in file.tokens.items()}
    profiles = {name: _profile(name, token, file, own, context) for name, token in entries.items()}
    shown = {name: _in_plain_types(_told_of_sets(name, token, context)) for name, token in entries.items()}
    state_dir = file.state_dir or default_state_dir(context.env)
    return Settings(
        path=context.path,
        tokens={name: token for name, token in shown.items() if token.for_each is None},
        sets={name: token for name, token in shown.items() if token.for_each is not None},
        profiles={name: profile for name, profile in profiles.items() if profile is not None},
        provider_names={
            name: token.provider if isinstance(token.provider, str) else INLINE
            for name, token in entries.items()
        },
        own_profiles=own,
        namespace=file.namespace,
        state_dir=state_dir,
        store=_store(file.store, state_dir, context),
        server=file.server,
        control=ControlSettings(mode=file.control.mode, group=_numeric(file.control.group)),
        log=file.log,
        audit=file.audit,
        tracing=file.tracing,
        console=_console(file.console),
        allow_volatile_store=file.allow_volatile_store,
        allow_insecure_http=file.allow_insecure_http,
        max_workers=file.max_workers,
    )


def default_state_dir(env: Mapping[str, str]) -> Path:
    """Choose where the daemon's private files go when the configuration does not say."""
    if env.get("RUNTIME_DIRECTORY"):
        return Path(env["RUNTIME_DIRECTORY"].split(":")[0])  # systemd lists all of them
    system = Path("/run/token-sidecar")
    if os.access(system if system.exists() else system.parent, os.W_OK):
        return system
    if env.get("XDG_RUNTIME_DIR"):
        return Path(env["XDG_RUNTIME_DIR"]) / "token-sidecar"
    return Path(tempfile.gettempdir()) / f"token-sidecar-{os.getuid()}"


def _told_of_sets(name: str, token: TokenSettings, context: Context) -> TokenSettings:
    """Fill in what is the default for a set alone: that no account's trouble is everybody's."""
    if token.for_each is None:
        return token
    harmless = {"required": False, "on_dead": OnDead.REPORT}
    kept = {key: value for key, value in harmless.items() if not context.given(("tokens", name, key))}
    every = msgspec.structs.replace(token.for_each, every=float(token.for_each.every))
    return msgspec.structs.replace(token, for_each=every, **kept)


def _in_plain_types(token: TokenSettings) -> TokenSettings:
    """Turn spans into floats, since msgspec encodes no subclasses of it, and ids that are digits into numbers."""
    outputs = tuple(_output_with_numeric_ids(output) for output in token.outputs)
    hooks = tuple(_hook_in_plain_types(hook) for hook in token.after_refresh)
    members = {name: getattr(token, name) for name in token.__struct_fields__}
    spans = {name: float(value) for name, value in members.items() if isinstance(value, Duration)}
    readers = dict.fromkeys(scope for output in outputs for scope in output.scopes)
    scopes = (*token.scopes, *(scope for scope in readers if scope not in token.scopes))
    return msgspec.structs.replace(token, outputs=outputs, after_refresh=hooks, scopes=scopes, **spans)


def _console(console: ConsoleSettings) -> ConsoleSettings:
    url = console.url.rstrip("/") if console.url else None
    return msgspec.structs.replace(console, url=url, session=float(console.session))


def _hook_in_plain_types(hook: HookSettings) -> HookSettings:
    command = hook.exec and msgspec.structs.replace(hook.exec, user=_numeric(hook.exec.user))
    return msgspec.structs.replace(hook, timeout=float(hook.timeout), exec=command)


def _output_with_numeric_ids(output: OutputTarget) -> OutputTarget:
    return msgspec.structs.replace(output, owner=_numeric(output.owner), group=_numeric(output.group))


def _numeric(identity: str | int | None) -> str | int | None:
    """Read an id that came through a variable, and so is text, as the number that it is."""
    if isinstance(identity, str) and identity.isascii() and identity.isdigit():
        return int(identity[:20])
    return identity


def _own_profiles(file: ConfigFile, context: Context) -> dict[str, Profile]:
    found = {}
    for name, own in file.providers.items():
        base = own.extends or (name if name in providers.names() else providers.GENERIC)
        found[name] = _own_profile(own, base, ("providers", name, "extends"), context)
    return {name: profile for name, profile in found.items() if profile is not None}


def _profile(
    name: str, token: TokenSettings, file: ConfigFile, own: Mapping[str, Profile], context: Context
) -> Profile | None:
    base = _named_profile(name, token.provider, file, own, context)
    if base is None:
        return None
    changes = {"grant": token.grant, "auth_method": token.client.auth_method}
    return providers.override(base, {field: value for field, value in changes.items() if value is not None})


def _named_profile(
    token: str,
    provider: str | ProviderSettings | None,
    file: ConfigFile,
    own: Mapping[str, Profile],
    context: Context,
) -> Profile | None:
    place = ("tokens", token, "provider")
    if provider is None:
        context.missing(
            place, "is missing; name a profile (`token-sidecar providers` lists them) or {token_url: …}"
        )
        return None
    if isinstance(provider, ProviderSettings):
        return _own_profile(provider, provider.extends or providers.GENERIC, (*place, "extends"), context)
    if provider in file.providers:
        return own.get(provider)
    if provider in providers.names():
        return providers.load(provider)
    if not context.report.spoilt(f"providers.{provider}"):
        known = tuple(sorted({*providers.names(), *file.providers}))
        context.error(place, providers.unknown(provider, known))
    return None


def _own_profile(
    own: ProviderSettings, base: str, place: tuple[str, ...], context: Context
) -> Profile | None:
    if base not in providers.names():
        context.error(
            place, f"only a built-in profile can be extended: {providers.unknown(base, providers.names())}"
        )
        return None
    members = {field: getattr(own, field) for field in own.__struct_fields__ if field != "extends"}
    given = {field: value for field, value in members.items() if value is not None}
    extended, implied = providers.load(base), {}
    if own.rotation not in {None, Rotation.NEVER, extended.rotation}:
        # What may be sent twice follows from how it rotates: Google's `replay_ok` kills a grant that does.
        implied = {"in_doubt": InDoubt.NO_REPLAY}
    profile = providers.override(extended, implied | given)
    # What somebody wrote down is no default, which an issuer's metadata may replace.
    return msgspec.structs.replace(profile, sources={**profile.sources, **dict.fromkeys(given, _OWN)})


def _store(store: StoreSettings, state_dir: Path, context: Context) -> StoreSettings:
    """Return the store with its URL in one canonical spelling."""
    if store.url is not None and store.url_file is not None:
        context.error(("store",), "has both `url` and `url_file`; keep one")
    place = "url" if store.url is not None else "url_file"
    url = store.url if store.url is not None else _url_from_file(store.url_file, context)
    if url is None:
        directory = context.env.get("STATE_DIRECTORY", "").split(":")[0] or str(state_dir)
        url = f"sqlite://{directory}/{STORE_FILE}"
    return msgspec.structs.replace(store, url=_canonical(url, ("store", place), context))


def _url_from_file(path: Path | None, context: Context) -> str | None:
    if path is None or not context.disk:
        return None
    try:
        url = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "it is not text"
        context.error(("store", "url_file"), f"{path} can't be read: {reason}; write the store's URL into it")
        return None
    if not url:
        context.error(("store", "url_file"), f"{path} is empty; write the store's URL into it")
    return url or None


def _canonical(url: str, place: tuple[str, ...], context: Context) -> str:
    # A URL may hold a password, so that none is ever shown.
    scheme, colon, rest = url.partition(":")
    if colon and scheme == "memory" and rest in ("", "//"):
        return "memory:"
    if colon and scheme == "sqlite" and rest.startswith("///"):
        return f"sqlite://{absolute(rest[2:], context.base, context.env)}"
    if colon and scheme == "sqlite" and rest and not rest.startswith("//") and "\0" not in rest:
        return f"sqlite://{absolute(rest, context.base, context.env)}"
    if (
        colon
        and scheme in {"postgres", "postgresql", "kubernetes", "aws-secretsmanager"}
        and rest.startswith("//")
    ):
        return url  # its adapter judges the rest (contents.py)
    context.error(place, f"is no store's URL; write {_WAYS}")
    return "memory:"
