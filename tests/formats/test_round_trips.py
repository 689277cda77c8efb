from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from sidecar import formats
from sidecar.config.settings import JsonField, OutputTarget
from sidecar.errors import FormatError
from sidecar.formats.fields import FIELDS, TYPES
from sidecar.ports import Publication
from sidecar.tokens import AccessToken, ExpirySource, RefreshToken

Make = Callable[..., Publication]

usual = st.text("ABCXYZabcxyz0189-._~+/=", min_size=1, max_size=300)
tokens = usual | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=3000)
times = st.floats(min_value=1e9, max_value=4e9)
scopes = st.one_of(st.none(), st.just("a b"), st.text(st.characters(codec="utf-8"), min_size=1))
publications = st.builds(
    Publication,
    token=st.just("t"),
    access=st.builds(
        AccessToken,
        value=tokens,
        issued_at=times,
        expires_at=st.one_of(st.none(), times),
        ttl=st.one_of(st.none(), st.floats(min_value=1, max_value=1e7)),
        expiry_source=st.sampled_from(ExpirySource),
        scope=scopes,
    ),
    refresh=st.one_of(
        st.none(),
        st.builds(RefreshToken, value=tokens, issued_at=times, expires_at=st.one_of(st.none(), times)),
    ),
    lineage=st.just("0" * 32),
    generation=st.integers(min_value=0),
)


NEEDED = {"netrc": {"machine": "api.example"}, "template": {"template": "{{ access_token }}"}}
"""What a format can't do without."""


def layout(name: str, **options: object) -> formats.Format:
    """Return a format as an output is configured with it."""
    options = {**NEEDED.get(name, {}), **options}
    return formats.for_target(OutputTarget(file=Path("/run/tokens/t"), format=name, **options))  # type: ignore[arg-type]


def encoded(written: formats.Format, publication: Publication, *, include_refresh_token: bool) -> bytes:
    """Lay a publication out; one with characters that readers disagree about is none of this test's."""
    try:
        return written.encode(publication, include_refresh_token=include_refresh_token)
    except FormatError:
        assert written.name in {"dotenv", "netrc"}
        reject()


@pytest.mark.parametrize("name", [name for name in formats.NAMES if name != "template"])
@given(publication=publications)
def test_what_was_written_is_read_back(name: str, publication: Publication) -> None:
    """Every format gives back the token, and the expiry to the second where it carries one."""
    written = layout(name)
    found = written.decode(encoded(written, publication, include_refresh_token=False))
    access = publication.access
    assert found.access_token == access.value
    assert found.refresh_token is None
    known = access.expires_at is not None and access.expiry_source is not ExpirySource.ASSUMED
    if written.carries_expiry and known:
        assert access.expires_at is not None
        assert found.expires_at is not None
        assert access.expires_at - 1 < found.expires_at <= access.expires_at
    else:
        assert found.expires_at is None


@pytest.mark.parametrize("name", ["json", "gmail-sdk", "google-authorized-user", "dotenv"])
@given(publication=publications)
def test_a_refresh_token_is_written_only_when_told_to(name: str, publication: Publication) -> None:
    """The refresh token is in the bytes if and only if it was to be included."""
    written = layout(name, include_refresh_token=True)
    held = publication.refresh.value if publication.refresh else None
    assert written.decode(encoded(written, publication, include_refresh_token=True)).refresh_token == held
    assert written.decode(encoded(written, publication, include_refresh_token=False)).refresh_token is None


@pytest.mark.parametrize("name", formats.NAMES)
@given(publication=publications)
def test_the_same_publication_gives_the_same_bytes(name: str, publication: Publication) -> None:
    """Nothing in a format depends on when it is written, or unchanged files would be rewritten."""
    written = layout(name)
    first = encoded(written, publication, include_refresh_token=True)
    assert first == written.encode(publication, include_refresh_token=True)


@given(
    publication=publications,
    fields=st.dictionaries(st.sampled_from(sorted(FIELDS)), st.integers(0, 3), min_size=1),
)
def test_renamed_and_typed_fields_are_read_back(publication: Publication, fields: dict[str, int]) -> None:
    """A `json` output with fields of any name and type gives back what it carries."""
    chosen = {
        name: JsonField(name=f"x-{name}", type=TYPES[FIELDS[name]][pick % len(TYPES[FIELDS[name]])])  # type: ignore[arg-type]
        for name, pick in (fields | {"access_token": 0}).items()
    }
    written = layout("json", fields=chosen)
    data = written.encode(publication, include_refresh_token=False)
    assert set(json.loads(data)) == {f"x-{name}" for name in chosen}
    found = written.decode(data)
    assert found.access_token == publication.access.value
    expires_at = publication.access.expires_at
    known = publication.access.expiry_source is not ExpirySource.ASSUMED and expires_at is not None
    if "expires_at" in chosen and known:
        assert found.expires_at is not None
        assert expires_at is not None
        assert expires_at - 1 < found.expires_at <= expires_at


@pytest.mark.parametrize("name", formats.NAMES)
@given(data=st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_bytes_are_either_read_or_refused(name: str, data: bytes) -> None:
    """Rubbish ends in a FormatError and in nothing else."""
    with suppress(FormatError):
        layout(name).decode(data)
    with suppress(FormatError):
        formats.seed_contents(data)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=5,
)


@given(
    members=st.dictionaries(
        st.sampled_from([*FIELDS, "token", "expiry", "created_at", "scopes", "refresh_expires_in"]),
        json_values,
    )
)
def test_members_of_any_kind_are_either_read_or_refused(members: dict[str, object]) -> None:
    """JSON with the right names and the wrong values ends in a FormatError and in nothing else."""
    data = json.dumps(members).encode()
    for name in ("json", "gmail-sdk", "google-authorized-user"):
        try:
            found = layout(name).decode(data)
        except FormatError:
            continue
        found.access(written_at=1e9, by_receiver=True)
        found.access(written_at=1e9, by_receiver=False)
        found.refresh(written_at=1e9)


def test_raw_and_header_are_what_their_readers_send(publication: Make) -> None:
    """There is no newline that a reader which doesn't strip would send."""
    assert layout("raw").encode(publication(), include_refresh_token=False) == b"sim-at-0123456789abcdef"
    header = layout("header").encode(publication(), include_refresh_token=False)
    assert header == b"Authorization: Bearer sim-at-0123456789abcdef"


@pytest.mark.parametrize("value", ["", "sim-at-two\r\nX-Injected: 1", "sim-at-with space", "sim-at-é"])
@pytest.mark.parametrize("name", ["raw", "header"])
def test_a_token_that_would_break_a_header_is_refused(name: str, value: str, publication: Make) -> None:
    """A provider can't smuggle a header line into an application through its token."""
    with pytest.raises(FormatError) as refused:
        layout(name).encode(publication(value=value), include_refresh_token=False)
    assert "sim-at-" not in str(refused.value)


def test_json_by_default(publication: Make) -> None:
    """The default members, with whole seconds rounded down."""
    assert json.loads(layout("json").encode(publication(), include_refresh_token=False)) == {
        "access_token": "sim-at-0123456789abcdef",
        "token_type": "Bearer",
        "expires_at": 1_700_003_600,
        "scope": "gmail.send gmail.readonly",
    }


def test_json_says_null_for_what_nobody_knows(publication: Make) -> None:
    """An expiry that is assumed or doesn't exist is null, and a scope falls back on the configured one."""
    for options in ({"expires_at": None, "source": ExpirySource.NEVER}, {"source": ExpirySource.ASSUMED}):
        made = publication(scope=None, scopes=("a", "b"), **options)
        found = json.loads(layout("json").encode(made, include_refresh_token=True))
        assert (found["expires_at"], found["scope"]) == (None, "a b")
        assert found["refresh_token"] == "sim-rt-0123456789abcdef"


def test_json_with_every_type(publication: Make) -> None:
    """A field is written as the type that was asked for."""
    fields: dict[str, str | JsonField] = {
        "access_token": "accessToken",
        "expires_at": JsonField(name="expiresAt", type="iso8601"),
        "issued_at": JsonField(name="issued", type="number"),
        "expires_in": JsonField(name="ttl", type="string"),
        "refresh_token_expires_at": "refreshEnds",
        "refresh_token": "refreshToken",
    }
    made = publication(refresh_expires_at=1_700_604_800.9)
    assert json.loads(layout("json", fields=fields).encode(made, include_refresh_token=False)) == {
        "accessToken": "sim-at-0123456789abcdef",
        "expiresAt": "2023-11-14T23:13:20Z",
        "issued": 1_700_000_000.25,
        "ttl": "3600",
        "refreshEnds": 1_700_604_800,
        "refreshToken": "",
    }


def test_gmail_sdk_has_exactly_its_keys(publication: Make) -> None:
    """The members are those that the SDK itself writes, with a float expiry and an empty refresh token."""
    made = publication(refresh_expires_at=1_700_604_800.25)
    assert json.loads(layout("gmail-sdk").encode(made, include_refresh_token=False)) == {
        "access_token": "sim-at-0123456789abcdef",
        "expires_in": 3600,
        "refresh_token": "",
        "scope": "gmail.send gmail.readonly",
        "token_type": "Bearer",
        "refresh_token_expires_in": 604_800,
        "expires_at": 1_700_003_600.25,
    }


def test_an_assumed_expiry_is_told_only_to_a_reader_that_can_refresh(publication: Make) -> None:
    """The gmail SDK refreshes by itself near expiry: without a refresh token it could only fail."""
    made = publication(source=ExpirySource.ASSUMED)
    written = layout("gmail-sdk")
    assert json.loads(written.encode(made, include_refresh_token=False))["expires_at"] == 253402300799.0
    assert json.loads(written.encode(made, include_refresh_token=True))["expires_at"] == 1_700_003_600.25


def test_google_authorized_user_has_the_keys_that_its_reader_demands(publication: Make) -> None:
    """Keys that google-auth insists on are there, empty where we have nothing to give."""
    written = layout("google-authorized-user").encode(publication(), include_refresh_token=False)
    assert json.loads(written) == {
        "type": "authorized_user",
        "token": "sim-at-0123456789abcdef",
        "refresh_token": "",
        "token_uri": "https://oauth2.example/token",
        "client_id": "client.apps.example",
        "client_secret": "",
        "scopes": ["gmail.send", "gmail.readonly"],
        "expiry": "2023-11-14T23:13:20Z",
    }
