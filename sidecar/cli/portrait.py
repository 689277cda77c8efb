"""A provider's profile in words, for `providers show` and for docs/reference/providers.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sidecar import providers
from sidecar.cli.common import span
from sidecar.profile import AuthMethod, BodyKind, ExpiryKind, GrantType, InDoubt, Profile, Rotation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.profile import ErrorRule

UNTESTED = "Not yet tested against the real provider."


class Fact(NamedTuple):
    """One sentence, and where it is from."""

    sentence: str
    source: str = ""


def facts(profile: Profile) -> list[Fact]:
    """Tell all that a profile says and where that is from; what it doesn't know it doesn't tell."""
    told = ((field, sentence) for field, sentence in _told(profile) if sentence)
    return [Fact(sentence, profile.sources.get(field, "")) for field, sentence in told]


def tested(profile: Profile) -> str:
    """Say who has used it against the real provider."""
    return f"Tested against the real provider: {profile.tested}." if profile.tested else UNTESTED


def access_life(profile: Profile) -> str:
    """Say in a table's cell how long an access token usually lives."""
    if profile.zero_means_never or profile.answer.expires_kind is ExpiryKind.NEVER:
        return "for ever"
    return span(profile.default_ttl) if profile.default_ttl else "-"


def refresh_life(profile: Profile) -> str:
    """Say in a table's cell how long a refresh token lives: from the consent, and without use."""
    lives = ((profile.refresh_ttl, ""), (profile.refresh_idle_ttl, " unused"))
    return ", ".join(span(seconds) + how for seconds, how in lives if seconds) or "-"


def rotation(profile: Profile) -> str:
    """Say in a table's cell whether refresh tokens rotate."""
    return profile.rotation.value if profile.grant is GrantType.REFRESH_TOKEN else "-"


def reference() -> str:
    """Write docs/reference/providers.md, as Markdown."""
    known = {name: providers.load(name) for name in providers.names()}
    rows = [
        f"| [`{name}`](#{name}) | {profile.title} | `{profile.grant}` | {rotation(profile)} "
        f"| {access_life(profile)} | {refresh_life(profile)} |"
        for name, profile in known.items()
    ]
    sections = (line for name, profile in known.items() for line in _section(name, profile))
    return "\n".join([_INTRODUCTION, *rows, *sections, ""])


_INTRODUCTION = """\
# Providers

<!-- Written from the profiles in sidecar/providers by `make reference`. -->

What is known of OAuth2 providers, and from where. Name a profile as `provider:` of a token; what is unknown stays at
its most careful default, and whatever is wrong for you can be changed under [`providers:`](configuration.md).
[How profiles are made](../explanation/providers.md) says what their sources are worth.

| Name | Provider | Grant | Rotation | Access token | Refresh token |
|---|---|---|---|---|---|"""


def _section(name: str, profile: Profile) -> Iterator[str]:
    yield f"\n## {name}\n"
    yield f"{profile.title}. {tested(profile)} [The provider's own page]({profile.docs}).\n"
    for fact in facts(profile):
        yield f"- {fact.sentence}"
    if profile.notes:
        yield "\nTo know:\n"
        yield from (f"- {note}" for note in profile.notes)
    if profile.sources:
        yield "\n<details><summary>Sources</summary>\n"
        yield from (f"- `{field}`: {_escaped(source)}" for field, source in profile.sources.items())
        yield "\n</details>"


def _escaped(text: str) -> str:
    return text.replace("_", r"\_").replace("<", "&lt;")


def _told(profile: Profile) -> Iterator[tuple[str, str]]:
    """Name each fact by the field that it is kept in."""
    yield from _places(profile)
    yield from _requests(profile)
    yield from _answers(profile)
    if profile.grant is GrantType.REFRESH_TOKEN:
        yield "rotation", _ROTATION[profile.rotation]
        yield "in_doubt", _IN_DOUBT[profile.in_doubt]
        yield "grace", _when("A replaced refresh token can still be used for {}.", profile.grace)
    elif profile.in_doubt is InDoubt.REPLAY_OK:
        yield "in_doubt", "After a lost answer it is asked again at once."
    yield (
        "kills_old_access_token",
        "A refresh ends the access token before it." * profile.kills_old_access_token,
    )
    yield (
        "refresh_ttl",
        _when("A refresh token ends {} after the consent, whatever happens.", profile.refresh_ttl),
    )
    yield "refresh_idle_ttl", _when("A refresh token ends after {} without use.", profile.refresh_idle_ttl)
    yield "min_interval", _when("Refreshes are at least {} apart.", profile.min_interval)
    yield (
        "unavailable_is_refusal",
        ""
        if profile.unavailable_is_refusal
        else "A request that is answered with 503 may have been processed.",
    )
    rules = "; ".join(map(_rule, profile.errors))
    yield "errors", rules and f"Errors of its own: {rules}."


def _places(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "issuer", profile.issuer and f"Issuer, which names its endpoints: {profile.issuer}"
    yield "token_url", f"Token endpoint: {profile.token_url or 'yours to name, by `issuer` or `token_url`'}"
    for field, what in (
        ("authorization_url", "Authorization"),
        ("device_authorization_url", "Device authorization"),
        ("revocation_url", "Revocation"),
        ("introspection_url", "Introspection"),
    ):
        place = getattr(profile, field)
        yield field, place and f"{what} endpoint: {place}"
    params = ", ".join(f"`{name}: {value}`" for name, value in profile.authorization_params.items())
    yield "authorization_params", params and f"A consent is asked for with {params}."
    scopes = ", ".join(f"`{scope}`" for scope in profile.consent_scopes)
    yield "consent_scopes", scopes and f"Every consent asks for {scopes}, too."
    separator = profile.scope_separator
    yield "scope_separator", f"Scopes are separated by `{separator}`." if separator != " " else ""
    yield "pkce", "" if profile.pkce else "A consent has no proof key (PKCE)."


def _requests(profile: Profile) -> Iterator[tuple[str, str]]:
    yield "grant", _GRANT[profile.grant]
    signed = profile.grant in {GrantType.JWT_BEARER, GrantType.GITHUB_INSTALLATION}
    yield "auth_method", "The assertion proves the client, too." if signed else _AUTH[profile.auth_method]
    yield "method", f"Requests are made with {profile.method}." if profile.method != "POST" else ""
    yield "body", _BODY[profile.body]
    names = ", ".join(f"`{name}` is called `{own}`" for name, own in profile.param_names.items())
    yield "param_names", names and f"Of a request's parameters {names}."
    for field, given in (("extra_params", profile.extra_params), ("extra_headers", profile.extra_headers)):
        listed = ", ".join(f"`{name}: {value}`" for name, value in given.items())
        yield field, listed and f"Sent with every token request: {listed}."
    yield "scope_on_refresh", "A refresh names the scopes." * profile.scope_on_refresh


def _answers(profile: Profile) -> Iterator[tuple[str, str]]:
    shape, usual = profile.answer, type(profile.answer)()
    paths = ("access_token", "refresh_token", "token_type", "scope", "expires", "error", "error_description")
    elsewhere = ", ".join(
        f"`{getattr(shape, path)}` for the {_PATHS[path]}"
        for path in paths
        if getattr(shape, path) != getattr(usual, path)
    )
    yield "answer", elsewhere and f"Answers have names of their own: {elsewhere}."
    yield "answer", _EXPIRY.get(shape.expires_kind, "")
    marks = " and ".join(f"`{path}: {_json(value)}`" for path, value in shape.success.items())
    yield "answer", marks and f"Errors come with status 200 too: a success says {marks}."
    yield "default_ttl", _when("Access tokens live {} where an answer doesn't say.", profile.default_ttl)
    yield "zero_means_never", "`expires_in: 0` means that a token never expires." * profile.zero_means_never


def _json(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rule(rule: ErrorRule) -> str:
    conditions = [str(rule.status or ""), f"`{rule.code}`" if rule.code else ""]
    if rule.description:
        conditions.append("with " + " or ".join(f'"{text}"' for text in rule.description.split("|")))
    delay = f", for at least {span(rule.min_delay)}" if rule.min_delay else ""
    return f"{' '.join(filter(None, conditions))} is {_OUTCOME[rule.outcome.value]}{delay}"


def _when(sentence: str, seconds: float | None) -> str:
    return sentence.format(span(seconds)) if seconds else ""


_GRANT = {
    GrantType.REFRESH_TOKEN: "Access tokens are obtained with a refresh token.",
    GrantType.CLIENT_CREDENTIALS: "Access tokens are obtained with the client's own proof (client_credentials).",
    GrantType.JWT_BEARER: "Access tokens are obtained with a signed assertion (jwt_bearer).",
    GrantType.TOKEN_EXCHANGE: "Access tokens are obtained for another token, read from a file (token_exchange).",
    GrantType.GITHUB_INSTALLATION: "Access tokens are obtained with an assertion that the app signs.",
    GrantType.LIVING_TOKEN: "An access token is exchanged for the next one while it lives.",
}

_AUTH = {
    AuthMethod.BASIC: "The client shows its secret in the Authorization header (client_secret_basic).",
    AuthMethod.POST: "The client shows its secret among the parameters (client_secret_post).",
    AuthMethod.SECRET_JWT: "The client signs an assertion with its secret (client_secret_jwt).",
    AuthMethod.PRIVATE_KEY_JWT: "The client signs an assertion with its private key (private_key_jwt).",
    AuthMethod.TLS: "The client shows a certificate (tls_client_auth).",
    AuthMethod.NONE: "The client shows nothing but its id.",
}

_BODY = {
    BodyKind.FORM: "",
    BodyKind.JSON: "Requests are JSON.",
    BodyKind.QUERY: "Parameters travel in the URL, the secret among them.",
}

_PATHS = {
    "access_token": "access token",
    "refresh_token": "refresh token",
    "token_type": "token's type",
    "scope": "scope",
    "expires": "expiry",
    "error": "error's code",
    "error_description": "error's text",
}

_EXPIRY = {
    ExpiryKind.MILLISECONDS: "The lifetime is in milliseconds.",
    ExpiryKind.MINUTES: "The lifetime is in minutes.",
    ExpiryKind.EPOCH: "The expiry is a Unix time.",
    ExpiryKind.EPOCH_MILLISECONDS: "The expiry is a Unix time in milliseconds.",
    ExpiryKind.ISO8601: "The expiry is a date and time.",
    ExpiryKind.NEVER: "Access tokens never expire.",
    ExpiryKind.ABSENT: "Answers don't say how long an access token lives.",
}

_ROTATION = {
    Rotation.NEVER: "The refresh token stays the same.",
    Rotation.ALWAYS: "Every refresh replaces the refresh token.",
    Rotation.SOMETIMES: "A refresh may replace the refresh token.",
    Rotation.UNKNOWN: "Whether a refresh replaces the refresh token is unknown: it is treated as if it did.",
}

_IN_DOUBT = {
    InDoubt.REPLAY_OK: "After a lost answer the same refresh token may be sent again at any time.",
    InDoubt.REPLAY_WINDOW: "After a lost answer the same refresh token may be sent again for a while.",
    InDoubt.REPLAY_UNTIL_USED: "After a lost answer the same refresh token may be sent again until "
    "the new one was used.",
    InDoubt.NO_REPLAY: "After a lost answer the refresh token is not sent again before the access token "
    "has been used up.",
}

_OUTCOME = {
    "transient": "passing trouble",
    "in_doubt": "in doubt: the request may have been processed",
    "misconfigured": "a misconfiguration",
    "suspect": "a refusal of the refresh token, which is looked into",
    "dead": "the end: a human has to consent again",
}
