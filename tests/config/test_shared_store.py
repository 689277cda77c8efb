"""What a store that several daemons share asks of the configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.config.settings import StoreSettings

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


def test_a_login_in_a_file_may_change(place: Place) -> None:
    """A reload takes another password in the URL's file for the same store, another database for another."""
    file = place.write("url")
    one = StoreSettings(url=f"postgresql://me:{SECRET}@db/t", url_file=file)
    assert one.identity == StoreSettings(url="postgresql://you:x@db/t", url_file=file).identity
    assert one.identity != StoreSettings(url=f"postgresql://me:{SECRET}@db/u", url_file=file).identity
    assert (
        StoreSettings(url="postgresql://a@db/t").identity != StoreSettings(url="postgresql://b@db/t").identity
    )
