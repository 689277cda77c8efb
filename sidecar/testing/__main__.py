"""`python -m sidecar.testing`: a simulated provider as a process of its own.

Prints one JSON line with `url`, `token_url` and `pid` once it accepts connections, then runs until SIGTERM or
SIGINT.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from sidecar import providers
from sidecar.errors import ConfigError
from sidecar.profile import GrantType
from sidecar.testing.config import ClientAuth, GraceAnswer, ProviderConfig, Rotation
from sidecar.testing.files import google_credentials, write_private
from sidecar.testing.provider import Provider
from sidecar.testing.server import Simulator


def main(argv: Sequence[str] | None = None) -> None:
    """Run until told to stop."""
    options = _parser().parse_args(argv)
    try:
        config = _config(options)
    except (ValueError, ConfigError) as mistake:
        raise SystemExit(f"{mistake}") from None
    try:
        simulator = _simulator(config, options)
    except OSError as fault:
        raise SystemExit(_sentence(fault, options)) from None
    ready = {"url": simulator.url, "token_url": simulator.token_url, "pid": os.getpid()}
    print(json.dumps(ready), flush=True)  # noqa: T201 - the line that others wait for
    anyio.run(_run, simulator)


def _simulator(config: ProviderConfig, options: argparse.Namespace) -> Simulator:
    """Take the address first: a run that can't have it leaves the files of the one that has."""
    provider = _provider(config, options.state)
    simulator = Simulator(provider=provider, host=options.host, port=options.port)
    simulator.bind()
    _write_files(provider, simulator, options)
    return simulator


def _sentence(fault: OSError, options: argparse.Namespace) -> str:
    if fault.filename is None:
        return f"{options.host} port {options.port} can't be had; name another one, or any with --port 0"
    return (
        f"nothing can be kept in {Path(fault.filename).parent}: {fault.strerror}; make that directory first"
    )


async def _run(simulator: Simulator) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(simulator.run)
            async for _ in signals:
                tasks.cancel_scope.cancel()


def _provider(config: ProviderConfig, state: Path | None) -> Provider:
    """Make the provider, with the grants of an earlier run if `state` holds any."""
    if state is None:
        return Provider(config)
    provider = Provider(config, on_change=lambda snapshot: write_private(state, snapshot))
    if state.exists():
        provider.restore(json.loads(state.read_text()))
    return provider


def _write_files(provider: Provider, simulator: Simulator, options: argparse.Namespace) -> None:
    if options.client_file is not None:
        endpoints = {"auth_url": f"{simulator.url}/authorize", "token_url": simulator.token_url}
        write_private(options.client_file, google_credentials(provider.config, **endpoints))
    if options.seed_file is None:
        return
    # A seed whose grant was restored may be in use; a new one would be a login that nobody did.
    if not (options.seed_file.exists() and provider.report().families):
        write_private(options.seed_file, _seed(provider, options.scope))


def _seed(provider: Provider, scope: str) -> dict[str, str]:
    if provider.config.profile.grant is GrantType.LIVING_TOKEN:
        return {"access_token": provider.new_living_token(scope)}
    return {"refresh_token": provider.new_grant(scope)}


def _config(options: argparse.Namespace) -> ProviderConfig:
    chosen: dict[str, Any] = {
        name: getattr(options, name) for name in _CONFIG_OPTIONS if getattr(options, name) is not None
    }
    if options.redirect_uri:
        chosen["redirect_uris"] = (*ProviderConfig().redirect_uris, *options.redirect_uri)
    if options.client_auth:
        chosen["client_auth"] = frozenset(options.client_auth)
    if options.public_client:
        chosen["client_secret"] = None
    elif options.client_secret_file is not None:
        chosen["client_secret"] = options.client_secret_file.read_text().strip()
    if options.profile is not None:
        return ProviderConfig.like(providers.load(options.profile), **chosen)
    return ProviderConfig(**chosen)


_CONFIG_OPTIONS = (
    "client_id",
    "access_ttl",
    "refresh_ttl",
    "refresh_idle_ttl",
    "announce_refresh_expiry",
    "rotation",
    "rotate_every",
    "rotation_probability",
    "random_seed",
    "repeat_refresh_token",
    "grace",
    "grace_until_used",
    "grace_answer",
    "reuse_kills_family",
    "kills_old_access_token",
    "same_token_until",
    "clock_skew",
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sidecar.testing", description="A simulated OAuth2 provider."
    )
    _add_process_options(parser)
    _add_client_options(parser)
    _add_token_options(parser)
    return parser


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("process").add_argument
    add("--profile", metavar="NAME", help="act like this provider; other options change that")
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=0, help="0 takes a free one")
    add("--seed-file", type=Path, help="write a new grant's refresh token here, as JSON, mode 0600")
    add("--client-file", type=Path, help="write a Google style credentials.json here, mode 0600")
    add("--state", type=Path, help="keep grants and tokens here across restarts, mode 0600")


def _add_client_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("client").add_argument
    add("--client-id")
    add("--client-secret-file", type=Path, help="default: a random secret; see --client-file")
    add("--public-client", action="store_true", help="no client secret")
    methods = [method for method in ClientAuth if method is not ClientAuth.NONE]
    add("--client-auth", type=ClientAuth, choices=methods, action="append", help="default: both")
    add("--redirect-uri", action="append", help="register it beside http://127.0.0.1/, as for the console")
    add("--scope", default="", help="scopes of the grant in --seed-file, separated by spaces")


def _add_token_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("tokens (durations in seconds)").add_argument
    add("--ttl", dest="access_ttl", type=float, help="life of access tokens")
    add("--refresh-ttl", type=float, help="life of a grant, never extended")
    add("--refresh-idle-ttl", type=float, help="life of a refresh token that isn't used")
    add("--announce-refresh-expiry", action="store_true", default=None)
    add("--rotation", type=Rotation, choices=list(Rotation))
    add("--rotate-every", type=int, help="with --rotation sometimes")
    add("--rotation-probability", type=float, help="with --rotation sometimes")
    add("--random-seed", type=int)
    add(
        "--repeat-refresh-token",
        action="store_true",
        default=None,
        help="answer the old refresh token when not rotating",
    )
    add("--grace", type=float, help="life of a replaced refresh token; inf for no limit")
    add(
        "--grace-until-used",
        action="store_true",
        default=None,
        help="end the grace when the new pair is used",
    )
    add("--grace-answer", type=GraceAnswer, choices=list(GraceAnswer))
    add("--no-reuse-detection", dest="reuse_kills_family", action="store_false", default=None)
    add("--kills-old-access-token", action="store_true", default=None)
    add("--same-token-until", type=float, help="repeat the access token until it has this long left")
    add("--clock-skew", type=float, help="how far the provider's clock is ahead")


if __name__ == "__main__":
    main()
