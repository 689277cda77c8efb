"""`seed`: a grant that a human gave elsewhere, from wherever it is kept."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from sidecar.cli import common, planting
from sidecar.cli.options import config_option, examples, json_option, name_argument
from sidecar.errors import HumanNeeded, TemporarilyUnavailable, UsageError

if TYPE_CHECKING:
    from sidecar.config.settings import SecretKey
    from sidecar.ports import Seeding

FORMATS = ("raw", "json", "gmail-sdk", "google-authorized-user", "dotenv")


class Source(NamedTuple):
    """Where the refresh token is, as it was given: one of these, or standard input."""

    file: str | None
    from_kubernetes: SecretKey | None
    from_aws: str | None
    from_config: Path | None


class SecretPlace(click.ParamType["SecretKey"]):
    """One key of a Kubernetes Secret: `[NAMESPACE/]NAME/KEY`."""

    name = "secret"

    def convert(
        self, value: str | SecretKey, param: click.Parameter | None, ctx: click.Context | None
    ) -> SecretKey:
        """Read it; what its parts may be is for the configuration to say."""
        import msgspec

        from sidecar.config.settings import SecretKey

        if not isinstance(value, str):
            return value
        parts = value.split("/")
        if len(parts) not in {2, 3}:
            self.fail("write [NAMESPACE/]NAME/KEY", param, ctx)
        namespace, name, key = [None, *parts][-3:]
        try:
            return msgspec.convert({"namespace": namespace, "name": name, "key": key}, SecretKey)
        except msgspec.ValidationError as error:
            self.fail(f"write [NAMESPACE/]NAME/KEY: {error}", param, ctx)


@click.command(
    epilog=examples(
        ("token-sidecar seed gmail --file token.json", "what a client library wrote"),
        ("token-sidecar seed gmail --from-kubernetes mail/gmail/token.json", "one key of a Secret"),
        ("token-sidecar seed gmail --from-aws gmail/token", "a secret of AWS Secrets Manager"),
        ("token-sidecar seed gmail --from-config old.yaml", "out of the store that you leave"),
        ("pass gmail/refresh-token | token-sidecar seed gmail", "from standard input"),
        ("token-sidecar seed gmail", "ask for it, without showing it"),
    )
)
@name_argument
@click.option(
    "--file",
    metavar="PATH|-",
    type=click.Path(allow_dash=True, dir_okay=False),
    help="Holds the refresh token, bare or in JSON. [default: standard input]",
)
@click.option(
    "--from-kubernetes",
    metavar="[NAMESPACE/]NAME/KEY",
    type=SecretPlace(),
    help="One key of a Secret that holds the same, read with this user's kubeconfig or the pod's account.",
)
@click.option(
    "--from-aws",
    metavar="NAME",
    help="A secret of AWS Secrets Manager that holds the same, read with this user's credentials.",
)
@click.option(
    "--from-config",
    metavar="PATH",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Another configuration, in whose store this token's grant is; that copy must not be used again.",
)
@click.option(
    "--format",
    "layout",
    type=click.Choice(FORMATS),
    help="How the content is laid out. [default: recognised from it]",
)
@click.option(
    "--force", is_flag=True, help="Take a refresh token that was used before; that may kill the grant."
)
@config_option
@json_option
def seed(  # noqa: PLR0913 - one for each option
    name: str,
    file: str | None,
    from_kubernetes: SecretKey | None,
    from_aws: str | None,
    from_config: Path | None,
    layout: str | None,
    config: Path,
    *,
    force: bool,
    as_json: bool,
) -> None:
    """Give a token a new refresh token.

    It starts a new lineage: death, doubt and back-off of the old one end with it. The running daemon uses
    it at once; without one it goes into the store, for the daemon to find. A refresh token that this
    store has seen used is refused, because sending it again may make the provider revoke everything.
    """
    from sidecar.server.wire import SeedRequest

    source = Source(file, from_kubernetes, from_aws, from_config)
    if sum(one is not None for one in source) > 1:
        raise UsageError("name one source: --file, --from-kubernetes, --from-aws or --from-config")
    settings = common.load(config, token=name)
    if not settings.profiles[name].needs_refresh_token:
        raise UsageError(
            f"{name}: the grant {settings.profiles[name].grant} has no refresh token, so there is no seed"
        )
    seeding = _read(name, source, layout, living=settings.profiles[name].lives_by_itself)
    reply = planting.plant(config, settings, name, SeedRequest(seeding, force=force))
    planting.show(reply, as_json=as_json)


def _read(name: str, source: Source, layout: str | None, *, living: bool) -> Seeding:
    import time

    from sidecar import seeds

    if source.from_config is not None:
        return _out_of_store(name, source.from_config)
    if source.from_kubernetes is not None or source.from_aws is not None:
        return _out_of_secret(name, source, layout, living=living)
    if source.file is None and sys.stdin.isatty():
        typed: str = click.prompt(f"Refresh token of {name}", hide_input=True, err=True)
        data, where, written = typed.encode(), "what you typed", time.time()
    else:
        data, where, written = common.read_input(source.file or "-")
    return seeds.parse(data, where=where, name=layout, written_at=written, living=living)


def _out_of_secret(name: str, given: Source, layout: str | None, *, living: bool) -> Seeding:
    import anyio
    import msgspec

    from sidecar import seeds
    from sidecar.clients.shared import SharedClients
    from sidecar.clock import SystemClock
    from sidecar.config.settings import SeedSource

    place = {"kubernetes_secret": msgspec.to_builtins(given.from_kubernetes)}
    if given.from_aws is not None:
        place = {"aws_secret": {"name": given.from_aws}}
    try:
        source = msgspec.convert({**place, "format": layout}, SeedSource)
    except msgspec.ValidationError as error:
        raise UsageError(f"--from-aws: this is no name of a secret: {error}") from None

    async def read() -> Seeding:
        async with SharedClients() as clients:
            opened = seeds.open_seed(source, clock=SystemClock(), clients=clients, living=living)
            found = await opened.read()
        if found is None:
            raise UsageError(f"{name}: {opened.missing}")
        return found

    return anyio.run(read)


def _out_of_store(name: str, path: Path) -> Seeding:
    """Take a grant over from another configuration's store. Raises `SidecarError` while it may be in use there."""
    from sidecar.ports import Seeding
    from sidecar.server.client import NotRunning

    settings = common.load(path, token=name)
    try:
        common.control(settings).status()
    except NotRunning:
        held = common.read_record(settings, name)
    else:
        raise UsageError(f"{name}: the daemon of {path} runs and would go on using this grant; stop it first")
    if held is None or held.record.refresh is None:
        raise HumanNeeded(f"{name}: the store of {path} holds no refresh token")
    record = held.record
    if record.is_dead():
        raise HumanNeeded(f"{name}: the grant in the store of {path} is dead; a human has to consent again")
    if record.attempt is not None:
        raise TemporarilyUnavailable(
            f"{name}: a refresh is under way, or broke off, in the store of {path}, so that this refresh token may be "
            "used up; let its daemon finish it, stop the daemon, and try again"
        )
    click.echo(f"{name}: its copy in the store of {path} must not be used again", err=True)
    return Seeding(held.record.refresh, record.access, record.client_id, record.endpoint)
