"""`providers`: what is known of OAuth2 providers, in words and with its sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sidecar.cli import common
from sidecar.cli.options import config_option, examples, json_option

if TYPE_CHECKING:
    from sidecar.profile import Profile


@click.group(
    invoke_without_command=True,
    epilog=examples(
        ("token-sidecar providers", "list the profiles"),
        ("token-sidecar providers show google", "one of them, in words"),
    ),
)
@click.pass_context
def providers(context: click.Context) -> None:
    """Show what is known of OAuth2 providers.

    A profile says how one provider behaves: whether it rotates refresh tokens, how long they live, what
    its errors mean. Name one as `provider:` of a token; change it, or write one of your own, under
    `providers:`. The configuration's own profiles are shown too, if there is a configuration.
    """
    if context.invoked_subcommand is None:
        # A context of its own, so that the environment's configuration counts.
        with list_profiles.make_context("list", [], parent=context) as listing:
            list_profiles.invoke(listing)


@providers.command("list")
@config_option
@json_option
@click.pass_context
def list_profiles(context: click.Context, config: Path, *, as_json: bool) -> None:
    """List the profiles: the built-in ones, and the configuration's own."""
    from sidecar.cli import portrait

    known = _known(context, config)
    if as_json:
        common.print_json({name: _plain(profile) for name, profile in known.items()})
        return
    rows = [
        [
            name,
            profile.title or "-",
            profile.grant.value,
            portrait.rotation(profile),
            portrait.access_life(profile),
            portrait.refresh_life(profile),
        ]
        for name, profile in known.items()
    ]
    common.show_table(["NAME", "PROVIDER", "GRANT", "ROTATION", "ACCESS TOKEN", "REFRESH TOKEN"], rows)


@providers.command(epilog=examples(("token-sidecar providers show google", "one profile, in words")))
@click.argument("name")
@config_option
@json_option
@click.pass_context
def show(context: click.Context, name: str, config: Path, *, as_json: bool) -> None:
    """Tell how one provider behaves, and how that is known."""
    from sidecar import providers as profiles
    from sidecar.cli import portrait
    from sidecar.errors import UsageError

    known = _known(context, config)
    if name not in known:
        raise UsageError(f"{name}: {profiles.unknown(name, tuple(known))}")
    profile = known[name]
    if as_json:
        common.print_json(_plain(profile))
        return
    click.echo(f"{name}: {profile.title}" if profile.title else name)
    click.echo(f"  {portrait.tested(profile)}")
    for fact in portrait.facts(profile):
        click.echo(f"  - {fact.sentence}")
        if fact.source:
            click.echo(f"      source: {fact.source}")
    for note in profile.notes:
        click.echo(f"  - To know: {note}")
    if "notes" in profile.sources:
        click.echo(f"      source: {profile.sources['notes']}")
    if profile.docs:
        click.echo(f"  - The provider's own page: {profile.docs}")


def _known(context: click.Context, config: Path) -> dict[str, Profile]:
    """Gather the built-in profiles and the configuration's own, which go before them, sorted.

    One that was asked for has to be right; one at the usual place is left out with a word if it isn't.
    """
    from sidecar import providers as profiles
    from sidecar.errors import SidecarError

    known = {name: profiles.load(name) for name in profiles.names()}
    usual = context.get_parameter_source("config") in {None, ParameterSource.DEFAULT}
    if usual and not config.exists():
        return known
    try:
        known |= common.load(config).own_profiles
    except SidecarError as error:
        if not usual:
            raise
        click.echo(f"left out, because it isn't right: {error}", err=True)
    return dict(sorted(known.items()))


def _plain(profile: Profile) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(profile)
    return found
