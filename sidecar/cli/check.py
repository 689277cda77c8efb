"""`check`: everything that is wrong with a configuration, in one run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import common
from sidecar.cli.options import config_option, examples, json_option
from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from sidecar.config import Settings
    from sidecar.schedule import Timing

ASSUMED_TTL = 3600.0
VERSIONS_A_DAY = 100
"""Of a secret in AWS Secrets Manager."""


@click.command(
    epilog=examples(
        ("token-sidecar check", "the daemon's configuration, as this user sees it"),
        ("token-sidecar check -c tokens.yaml --no-disk", "on another machine than it is for, such as CI"),
        ("token-sidecar check --schema > schema.json", "for your editor"),
    )
)
@config_option
@click.option("--no-disk", is_flag=True, help="Leave out what depends on this machine's files and users.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the configuration, and check nothing.")
@json_option
def check(config: Path, *, no_disk: bool, schema: bool, as_json: bool) -> int:
    """Check the configuration, without calling anybody.

    Every problem is one line with file, line, column and a way out. What the seeds and the client's files
    hold is read too: whether there is a refresh token, and a client. Then it shows when each token will
    be refreshed. Exit code 2 says that the daemon can't run with it. Run it as the daemon's user:
    permissions are checked as well.
    """
    if schema:
        from sidecar.config import schema as of_file

        common.print_json(of_file.generate())
        return 0
    from sidecar import config as configuration
    from sidecar import contents

    try:
        loaded = configuration.load(config, disk=not no_disk, also=contents.check)
    except ConfigError as error:
        if not as_json:
            raise
        common.print_json({"ok": False, "problems": error.problems, "warnings": error.warnings, "tokens": {}})
        return error.exit_code
    settings = loaded.settings
    times = {name: timing(settings, name) for name in settings.entries}
    warnings = [*loaded.warnings]
    warnings += [
        f"{config}: tokens.{name}: {warning}" for name, one in times.items() for warning in one.warnings
    ]
    warnings += _too_often(settings, times, config)
    if as_json:
        tokens = {name: _described(settings, name, one) for name, one in times.items()}
        common.print_json({"ok": True, "problems": [], "warnings": warnings, "tokens": tokens})
        return 0
    click.echo(f"{config} is valid: {settings.counted}")
    for name, one in times.items():
        click.echo(f"  {name}: {_members(settings, name)}{_in_words(settings, name, one)}")
    for warning in warnings:
        click.echo(f"warning: {warning}")
    return 0


def _too_often(settings: Settings, times: dict[str, Timing], config: Path) -> list[str]:
    """Find the tokens whose secrets AWS would run out of versions for: it removes none that is younger than a day."""
    found = []
    for name, one in times.items():
        outputs = settings.entries[name].outputs
        in_aws = settings.store.scheme == "aws-secretsmanager" or any(output.aws_secret for output in outputs)
        a_day = round(86400 / due(one)[0])
        if in_aws and a_day > VERSIONS_A_DAY:
            found.append(
                f"{config}: tokens.{name}: up to {a_day} refreshes a day, each a version of a secret in AWS, which "
                f"has about {VERSIONS_A_DAY} and removes none younger than a day; raise `refresh_at` or `min_interval`"
            )
    return found


def timing(settings: Settings, name: str) -> Timing:
    """Work out the timing in force for a token that lives as long as its profile says, else an hour."""
    from sidecar import schedule

    token, profile = settings.entries[name], settings.profiles[name]
    policy = schedule.Policy(
        min_validity=token.min_validity,
        refresh_at=token.refresh_at,
        min_interval=token.min_interval,
        lease=token.lease,
        request_timeout=token.request_timeout,
    )
    return schedule.timing(policy, profile, profile.default_ttl or ASSUMED_TTL)


def due(times: Timing) -> tuple[float, float]:
    """Return the earliest and the latest age, in seconds, at which a token is refreshed."""
    from sidecar.schedule import JITTER_WIDTH

    latest = times.ttl * times.refresh_at
    cap = times.ttl - times.min_validity - times.lease
    earliest = max(min(latest * (1 - JITTER_WIDTH), cap), times.min_interval)
    return earliest, max(min(latest, cap), times.min_interval)


def _source(settings: Settings, name: str) -> str | None:
    """Say who the accounts of a set are; None for a token that is none."""
    token = settings.sets.get(name)
    if token is None or token.for_each is None:
        return None
    return "sql" if token.for_each.sql is not None else f"records {settings.prefix_of(name)}…"


def _members(settings: Settings, name: str) -> str:
    source = _source(settings, name)
    if source is None:
        return ""
    listed = "what its SQL query lists" if source == "sql" else f"the {source} in the store"
    return f"one for each account, by {listed}; "


def _in_words(settings: Settings, name: str, times: Timing) -> str:
    first, last = map(common.span, due(times))
    when = first if first == last else f"{first} to {last}"
    profile = settings.profiles[name]
    assumed = "" if profile.default_ttl else " (assumed until the provider says)"
    found_later = (
        "" if profile.token_url else f" at whatever endpoint {profile.issuer} names (not asked here)"
    )
    return (
        f"{settings.provider_names[name]}, {profile.grant}{found_later}; of a life of "
        f"{common.span(times.ttl)}"
        f"{assumed} it is refreshed after {when}; readers find at least "
        f"{common.span(times.min_validity)} left; "
        f"lease {common.span(times.lease)}, request timeout {common.span(times.request_timeout)}, "
        f"no two refreshes within {common.span(times.min_interval)}"
    )


def _described(settings: Settings, name: str, times: Timing) -> dict[str, Any]:
    import msgspec

    first, last = due(times)
    return {
        "provider": settings.provider_names[name],
        "grant": settings.profiles[name].grant.value,
        "required": settings.entries[name].required,
        "for_each": _source(settings, name),
        "timing": {**msgspec.to_builtins(times), "refresh_after": [first, last]},
    }
