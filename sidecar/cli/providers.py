"""`providers`: what is known of OAuth2 providers, in words and with its sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import common
from sidecar.cli.options import examples, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    `providers:`.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_profiles, as_json=False)


@providers.command("list")
@json_option
def list_profiles(*, as_json: bool) -> None:
    """List the built-in profiles."""
    from sidecar import providers as profiles

    known = {name: profiles.load(name) for name in profiles.names()}
    if as_json:
        common.print_json({name: _plain(profile) for name, profile in known.items()})
        return
    rows = [
        [name, profile.title, profile.grant.value, profile.rotation.value, profile.token_url or "-"]
        for name, profile in known.items()
    ]
    common.show_table(["NAME", "PROVIDER", "GRANT", "ROTATION", "TOKEN ENDPOINT"], rows)


@providers.command(epilog=examples(("token-sidecar providers show google", "one profile, in words")))
@click.argument("name")
@json_option
def show(name: str, *, as_json: bool) -> None:
    """Tell how one provider behaves, and how that is known."""
    from sidecar import providers as profiles
    from sidecar.errors import ConfigError, UsageError

    try:
        profile = profiles.load(name)
    except ConfigError as error:
        raise UsageError(f"{name}: {error}") from None
    if as_json:
        common.print_json(_plain(profile))
        return
    click.echo(f"{name}: {profile.title}")
    for line in _sentences(profile):
        click.echo(f"  {line}")


def _plain(profile: Profile) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(profile)
    return found


def _sentences(profile: Profile) -> Iterator[str]:
    for field, sentence in _facts(profile):
        if sentence:
            source = profile.sources.get(field)
            yield f"- {sentence}"
            if source:
                yield f"    source: {source}"
    if profile.docs:
        yield f"- The provider's own page: {profile.docs}"


def _facts(profile: Profile) -> Iterator[tuple[str, str]]:
    """Name each fact by the field that it is kept in."""
    yield "token_url", f"Token endpoint: {profile.token_url or 'yours to name, as `token_url`'}"
    yield "revocation_url", profile.revocation_url and f"Revocation endpoint: {profile.revocation_url}"
    yield "grant", f"Access tokens are obtained with the grant {profile.grant}."
    yield "auth_method", f"Clients authenticate with {profile.auth_method}."
    yield "rotation", _ROTATION[profile.rotation.value]
    yield "in_doubt", _IN_DOUBT[profile.in_doubt.value].format(grace=_span(profile.grace))
    yield (
        "kills_old_access_token",
        "A refresh ends the access token before it." * profile.kills_old_access_token,
    )
    yield "default_ttl", _when("Access tokens live {} where an answer doesn't say.", profile.default_ttl)
    yield "zero_means_never", "`expires_in: 0` means that a token never expires." * profile.zero_means_never
    yield (
        "refresh_ttl",
        _when("A refresh token ends {} after the consent, whatever happens.", profile.refresh_ttl),
    )
    yield "refresh_idle_ttl", _when("A refresh token ends after {} without use.", profile.refresh_idle_ttl)
    yield "min_interval", _when("Refreshes are at least {} apart.", profile.min_interval)
    yield "scope_on_refresh", "A refresh names the scopes." * profile.scope_on_refresh
    extra = ", ".join(f"{name}={value}" for name, value in profile.extra_params.items())
    yield "extra_params", extra and f"Sent with every token request: {extra}"
    rules = "; ".join(_rule(rule) for rule in _plain(profile)["errors"])
    yield "errors", rules and f"Errors of its own: {rules}"


def _rule(rule: dict[str, Any]) -> str:
    conditions = " ".join(
        str(rule[key]) for key in ("status", "code", "description") if rule[key] is not None
    )
    return f"{conditions} → {rule['outcome']}"


def _when(sentence: str, seconds: float | None) -> str:
    return sentence.format(_span(seconds)) if seconds else ""


def _span(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else common.span(seconds)


_ROTATION = {
    "never": "The refresh token stays the same.",
    "always": "Every refresh replaces the refresh token.",
    "sometimes": "A refresh may replace the refresh token.",
    "unknown": "Whether a refresh replaces the refresh token is unknown: it is treated as if it did.",
}

_IN_DOUBT = {
    "replay_ok": "After a lost answer the same refresh token may be sent again at any time.",
    "replay_window": "After a lost answer the same refresh token may be sent again within {grace}.",
    "replay_until_used": "After a lost answer the same refresh token may be sent again until "
    "the new one was used.",
    "no_replay": "After a lost answer the refresh token is not sent again before the access "
    "token has been used up.",
}
