"""What a store that several daemons share asks of the configuration."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.kubernetes import secret_place
from sidecar.config.settings import StoreSettings
from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from tests.config.conftest import Place

TOKEN = "tokens: {a: {provider: google, client: {id: x, secret_file: s}, outputs: [{file: /run/a}]}}"
SECRET = "sim-cs-0123456789abcdef"


def test_it_needs_a_namespace(place: Place) -> None:
    """Two applications that left it out would take each other's records for theirs."""
    store = f"store: 'postgresql://me:{SECRET}@localhost/t'"
    assert [one.partition(": ")[2] for one in place.problems(f"{store}\n{TOKEN}")] == [
        "namespace: is missing; a store that others use too tells records apart by it: name this application"
    ]
    settings = place.load(f"{store}\nnamespace: app\n{TOKEN}").settings
    assert settings.store.url == f"postgresql://me:{SECRET}@localhost/t"
    assert settings.store.shared


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("postgresql://me@db/t", True),
        ("postgres://me@db:5432,localhost/t?sslmode=require", True),
        ("postgresql://me@db/t?sslmode=verify-full", False),
        ("postgresql://me@127.0.0.1:5432,[::1]:5433/t", False),
        ("postgresql://me@%2Frun%2Fpg/t", False),
        ("postgresql:///t?host=/run/pg", False),
    ],
)
def test_an_unverified_server_is_warned_of(place: Place, url: str, *, warned: bool) -> None:
    """Refresh tokens travel to it; beyond this machine somebody may listen, or answer in its place."""
    warnings = place.warnings(f"store: '{url}'\nnamespace: app\n{TOKEN}")
    assert any("anybody on the way" in one for one in warnings) == warned
    output = f"    outputs: [{{sql: {{url: '{url}', table: t, where: {{k: v}}, column: c}}}}]"
    warnings = place.warnings(
        f"tokens:\n  a:\n    provider: google\n    client: {{id: me, auth_method: none}}\n{output}"
    )
    assert any("sql.url: sslmode is" in one and "may read tokens" in one for one in warnings) == warned


def test_a_login_in_a_file_may_change(place: Place) -> None:
    """A reload takes another password in the URL's file for the same store, another database for another."""
    file = place.write("url")
    one = StoreSettings(url=f"postgresql://me:{SECRET}@db/t", url_file=file)
    assert one.identity == StoreSettings(url="postgresql://you:x@db/t", url_file=file).identity
    assert one.identity != StoreSettings(url=f"postgresql://me:{SECRET}@db/u", url_file=file).identity
    assert (
        StoreSettings(url="postgresql://a@db/t").identity != StoreSettings(url="postgresql://b@db/t").identity
    )


def test_records_in_secrets_need_a_namespace_too(place: Place) -> None:
    """The configuration's own namespace is in each record's key, whichever of Kubernetes' the Secrets are in."""
    store = "store: 'kubernetes://pal-e-mail/gmail-state'"
    assert [one.partition(": ")[2] for one in place.problems(f"{store}\n{TOKEN}")] == [
        "namespace: is missing; a store that others use too tells records apart by it: name this application"
    ]
    loaded = place.load(f"{store}\nnamespace: app\n{TOKEN}")
    assert loaded.settings.store.shared
    assert not any("anybody on the way" in one for one in place.warnings(f"{store}\nnamespace: app\n{TOKEN}"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("kubernetes:", "write kubernetes://NAMESPACE/NAME-PREFIX, where"),
        ("kubernetes://", "write kubernetes://NAMESPACE/NAME-PREFIX, where"),
        ("kubernetes://ns", "write kubernetes://NAMESPACE/NAME-PREFIX, where"),
        ("kubernetes://ns/", "write kubernetes://NAMESPACE/NAME-PREFIX, where"),
        ("kubernetes:///state", "write kubernetes://NAMESPACE/NAME-PREFIX, where"),
        (
            "kubernetes://NS/state",
            "its namespace is no name for Kubernetes: at most 63 small letters, digits and -",
        ),
        ("kubernetes://a.b/state", "its namespace is no name"),
        (f"kubernetes://{64 * 'n'}/state", "its namespace is no name"),
        ("kubernetes://me:sim-cs-0123456789abcdef@ns/state", "its namespace is no name"),
        (
            "kubernetes://ns/State",
            "its name prefix is no name for Kubernetes: at most 180 small letters, digits, - and",
        ),
        ("kubernetes://ns/state-", "its name prefix is no name"),
        ("kubernetes://ns/a/b", "its name prefix is no name"),
        ("kubernetes://ns/state?a=b", "its name prefix is no name"),
        ("kubernetes://ns/state\n", "its name prefix is no name"),
        (f"kubernetes://ns/{181 * 'p'}", "its name prefix is no name"),
    ],
)
def test_a_url_that_no_secret_can_be_named_by_is_refused(url: str, words: str) -> None:
    """What Kubernetes would not take is told before it is asked, with how it is written; nothing of it is repeated."""
    with pytest.raises(ConfigError) as caught:
        secret_place(url)
    assert str(caught.value).startswith("store: not a usable kubernetes:// URL: ")
    assert words in str(caught.value)
    assert "sim-" not in str(caught.value)


@pytest.mark.parametrize(
    ("token", "name"),
    [
        ("gmail", "state-gmail"),
        ("gmail.west-side.2", "state-gmail.west-side.2"),
        ("Gmail", "state-gmail-d19a15c7"),
        ("GMAIL", "state-gmail-8b61b904"),
        ("gmail_west", "state-gmail-west-56ecdd33"),
        ("gmail..west", "state-gmail-west-00aa1415"),
        ("a-.b", "state-a-b-e3774d95"),
    ],
)
def test_a_secret_is_named_after_its_token(token: str, name: str) -> None:
    """As the chart does in its own language: as it is where that is a name, else made into one and told apart."""
    assert secret_place("kubernetes://ns/state").secret_of(token) == name


@given(st.sets(st.from_regex(r"\A[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z"), max_size=5))
def test_every_token_has_a_secret_of_its_own(tokens: set[str]) -> None:
    """Whatever a token may be called, its Secret has a name that Kubernetes takes, and no other token has."""
    names = {secret_place(f"kubernetes://ns/{180 * 'p'}").secret_of(token) for token in tokens}
    assert len(names) == len(tokens)
    label = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
    assert all(len(name) <= 253 and re.fullmatch(rf"{label}(\.{label})*", name) for name in names)
