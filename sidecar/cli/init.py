"""`init`: from what a newcomer has to a configuration that runs."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import click
import msgspec

from sidecar.cli.options import CONFIG_VARIABLE, DEFAULT_CONFIG, examples
from sidecar.errors import UsageError

if TYPE_CHECKING:
    from sidecar.profile import Profile

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
GOOGLE_HOSTS = (".googleapis.com", ".google.com")


class Source(NamedTuple):
    """What the configuration is made from."""

    provider: str
    """As it stands in YAML behind `provider:`."""
    profile: Profile
    client: str
    """The lines under `client:`, with their indentation."""
    name: str
    """For the token, where the user gives none."""


@click.command(
    epilog=examples(
        ("token-sidecar init credentials.json", "from the OAuth client's file that Google offers"),
        ("token-sidecar init google --name gmail", "from a provider's profile"),
        ("token-sidecar init generic --output - | less", "look at it first"),
    )
)
@click.argument("source", metavar="SOURCE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    default="token-sidecar.yaml",
    show_default=True,
    help="Where to write it; - for standard output.",
)
@click.option("--name", help="The token's name. [default: the provider's]")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(source: str, output: Path, name: str | None, *, force: bool) -> None:
    """Write a commented configuration to start from.

    SOURCE is a client's credentials.json, as Google's console offers it for download, or the name of a
    provider's profile (`token-sidecar providers` lists them). Nothing is overwritten, and no secret is
    copied.
    """
    found = _from_file(Path(source)) if Path(source).is_file() else _from_profile(source)
    token = name or found.name
    if not NAME.fullmatch(token):
        raise UsageError(
            f"{token!r} is no name for a token; use letters, digits, dots, dashes and underscores"
        )
    system_wide = output.is_absolute() and output.is_relative_to("/etc")
    text = _write(found, token, system_wide=system_wide)
    if str(output) == "-":
        click.echo(text, nl=False)
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if force else os.O_EXCL)
    try:
        descriptor = os.open(output, flags, 0o644)
    except FileExistsError:
        raise UsageError(
            f"{output} exists already; name another file with --output, or add --force"
        ) from None
    except FileNotFoundError:
        raise UsageError(f"{output}: its directory is not there; make it: mkdir -p {output.parent}") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    _next_steps(found, token, output, system_wide=system_wide)


def _next_steps(found: Source, token: str, output: Path, *, system_wide: bool) -> None:
    click.echo(f"{output} is written. What is left to do:")
    if str(output.absolute()) != DEFAULT_CONFIG:
        click.echo(f"  export {CONFIG_VARIABLE}={shlex.quote(str(output.absolute()))}")
    if found.profile.authorization_url and found.profile.needs_refresh_token:
        click.echo("  # name in it the `scopes` to consent to; most providers refuse to be asked for none")
    click.echo(f"  mkdir -p {'/run/tokens' if system_wide else output.parent / 'tokens'}")
    click.echo("  token-sidecar check")
    if found.profile.needs_refresh_token:
        seed = f"token-sidecar seed {token} --file PATH"
        click.echo(f"  token-sidecar login {token}   # or, with a refresh token that you have: {seed}")
    click.echo("  token-sidecar run")


def _from_profile(name: str) -> Source:
    from sidecar import providers
    from sidecar.errors import ConfigError

    try:
        profile = providers.load(name)
    except ConfigError as error:
        if "/" in name or name.endswith(".json"):
            raise UsageError(f"{name}: there is no such file") from None
        raise UsageError(f"{name}: {error}; SOURCE can also be a client's credentials.json") from None
    client = _KEY if profile.grant.is_signed else _SECRET
    if profile.token_url:
        return Source(name, profile, client, name)
    own = next((note for note in profile.notes if f"{{extends: {name}, " in note), "")
    shown = re.search(r"\{extends: .*?\}", own)
    provider = shown[0] if shown else "{token_url: https://provider.example/oauth2/token}"
    return Source(f"{provider}  # yours", profile, client, "my-token")


def _from_file(path: Path) -> Source:
    """Read Google's credentials.json; another provider's file of that layout names its own endpoint."""
    from sidecar import providers
    from sidecar.clock import SystemClock
    from sidecar.config.settings import Client
    from sidecar.grants.client import ClientIdentity

    # Says what is wrong with the file, quoting none of it.
    ClientIdentity(Client(file=path), providers.load("google"), SystemClock()).credentials()
    document = json.loads(path.read_text(encoding="utf-8-sig"))
    stated = document.get("installed") or document.get("web")
    token_url = stated.get("token_uri", "")
    client = (
        "      # As it was downloaded; it is read again when it changes.\n"
        f"      file: {json.dumps(str(path.absolute()))}\n"
    )
    host = urlsplit(token_url).hostname if isinstance(token_url, str) else None
    if not host or f".{host}".endswith(GOOGLE_HOSTS):
        return Source("google", providers.load("google"), client, "google")
    stated_urls = {"token_url": token_url, "authorization_url": stated.get("auth_uri")}
    endpoints = {name: url for name, url in stated_urls.items() if url and isinstance(url, str)}
    inline = ", ".join(f"{name}: {json.dumps(url)}" for name, url in endpoints.items())
    profile = msgspec.structs.replace(providers.load("generic"), **endpoints)
    return Source(f"{{{inline}}}", profile, client, "my-token")


def _write(found: Source, token: str, *, system_wide: bool) -> str:
    file = f"/run/tokens/{token}.json" if system_wide else f"tokens/{token}.json"
    store = "/var/lib/token-sidecar/tokens.db" if system_wide else "token-sidecar.db"
    url = f"sqlite://{store}" if system_wide else f"sqlite:{store}"
    return "".join(
        (
            _HEAD.format(url=url),
            f"tokens:\n  {token}:\n",
            "    # A profile's name (`token-sidecar providers` lists them), or {token_url: …}.\n",
            f"    provider: {found.provider}\n    client:\n{found.client}",
            _SEED.format(token=token) if found.profile.needs_refresh_token else "",
            _OWN.get(found.profile.grant.value, ""),
            _SCOPES.format(scope=_SCOPE_OF.get(found.provider, "SCOPE"))
            if found.profile.authorization_url
            else "",
            _GOOGLE if found.provider == "google" else "",
            _OUTPUTS.format(file=file),
        )
    )


_HEAD = """\
# The configuration of token-sidecar. Relative paths start from this file's directory.
# `token-sidecar check` names every mistake in it.

# Where records are kept: the refresh tokens, above all. It has to outlive the daemon, and a pod.
store: {url}

# Private to the daemon: lock, control socket, answers on their way to the store.
# state_dir: /run/token-sidecar

# Probes (/livez, /readyz, /startupz), /metrics and /status.
# server: {{host: 127.0.0.1, port: 9640}}

"""

_SECRET = """\
      id: YOUR-CLIENT-ID
      # A file that holds the client's secret; it is read again when it changes.
      secret_file: client-secret
"""

_KEY = """\
      # For a Google service account `file: key.json` alone, as it was downloaded; elsewhere the client's id and
      # its private key in PEM. Either is read again when it changes.
      id: YOUR-CLIENT-ID
      private_key_file: client-key.pem
"""

_OWN = {
    "jwt_bearer": """\
    # What to ask for, and the user to act for.
    # scopes: [SCOPE]
    # subject: somebody@example.com
""",
    "github_installation": """\
    # The number of the installation, as its page's address shows it.
    installation: "12345678"
""",
}

_SCOPES = """\
    # What `login` asks the user to consent to; most providers want at least one. Without this line it is
    # what the grant has now.
    # scopes: [{scope}]
"""

_SCOPE_OF = {"google": "https://www.googleapis.com/auth/gmail.send"}

_SEED = """\
    # The refresh token: `token-sidecar login {token}` gets one. Or give yours once with
    # `token-sidecar seed {token} --file PATH`, or name a file that is watched.
    # seed: {token}-seed.json
"""

_GOOGLE = """\
    # While the app's consent screen is in "Testing", Google ends refresh tokens after 7 days: say so, to be
    # told in time.
    # refresh_token_ttl: 7d
"""

_OUTPUTS = """\
    # Where applications read the access token. It is replaced atomically: mount its directory,
    # never the file.
    outputs:
      - file: {file}
        format: json  # or raw, header, gmail-sdk, google-authorized-user
        mode: "0640"
        # group: 2000
    # How long a token that is read is valid for, at least; by default the shorter of 10m and a
    # sixth of its life.
    # min_validity: 10m
"""
