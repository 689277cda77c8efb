from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from sidecar import formats
from sidecar.errors import FormatError
from sidecar.formats import Contents
from sidecar.formats.json import PLAIN
from sidecar.tokens import ExpirySource


def short(value: object) -> str:
    """Name a parameter set, tell a string from a number and cut what is long."""
    return repr(value)[:40]


ACCESS, REFRESH = "sim-at-0123456789abcdef", "sim-rt-0123456789abcdef"


def seed(**members: object) -> bytes:
    """Write a seed as JSON."""
    return json.dumps(members).encode()


def test_the_gmail_sdks_own_file_is_recognised() -> None:
    """What the SDK writes in place gives the pair, its expiry and the refresh token's deadline (S1)."""
    data = json.dumps(
        {
            "access_token": ACCESS,
            "expires_in": 3599,
            "refresh_token": REFRESH,
            "scope": "https://mail.google.com/",
            "token_type": "Bearer",
            "refresh_token_expires_in": 604799,
            "expires_at": 1_700_003_599.75,
        },
        indent=2,
    ).encode()
    assert formats.recognise(data) == "gmail-sdk"
    found = formats.seed_contents(data)
    access = found.access(written_at=0, by_receiver=False)
    assert access is not None
    assert (access.value, access.expires_at, access.issued_at) == (ACCESS, 1_700_003_599.75, 1_700_000_000.75)
    refresh = found.refresh(written_at=0)
    assert refresh is not None
    assert (refresh.value, refresh.issued_at) == (REFRESH, 1_700_000_000.75)
    assert refresh.expires_at == 1_700_000_000.75 + 604799


def test_google_auths_to_json_is_recognised() -> None:
    """An authorized-user file gives the token, its scopes and its expiry in UTC (S5)."""
    data = seed(
        token=ACCESS,
        refresh_token=REFRESH,
        token_uri="https://oauth2.googleapis.com/token",
        client_id="c",
        client_secret="sim-cs-0123456789abcdef",
        scopes=["a", "b"],
        universe_domain="googleapis.com",
        account="",
        expiry="2023-11-14T22:13:20.123456Z",
    )
    assert formats.recognise(data) == "google-authorized-user"
    found = formats.seed_contents(data)
    assert (found.access_token, found.refresh_token, found.scope) == (ACCESS, REFRESH, "a b")
    assert found.expires_at == pytest.approx(1_700_000_000.123456)


def test_a_token_endpoints_answer_is_a_seed() -> None:
    """RFC 6749 §5.1: without a time in it, the access token's end is unknown and the refresh token counts."""
    data = seed(access_token=ACCESS, token_type="bearer", expires_in="3600", refresh_token=REFRESH)
    assert formats.recognise(data) == "json"
    found = formats.seed_contents(data)
    assert found.access(written_at=1e9, by_receiver=False) is None
    refresh = found.refresh(written_at=1e9)
    assert refresh is not None
    assert (refresh.value, refresh.issued_at, refresh.expires_at) == (REFRESH, 1e9, None)


def test_a_lone_refresh_token_is_a_seed() -> None:
    """S4's refresh_token.json holds nothing else."""
    assert formats.seed_contents(seed(refresh_token=REFRESH)).refresh_token == REFRESH


@pytest.mark.parametrize("line", [REFRESH, f"{REFRESH}\n", f" {REFRESH}\r\n", f"\ufeff{REFRESH}"])
def test_a_bare_line_is_a_seed(line: str) -> None:
    """A line with nothing but a refresh token, whatever editor saved it."""
    assert formats.recognise(line.encode()) == "raw"
    assert formats.seed_contents(line.encode()).refresh_token == REFRESH
    assert formats.seed_contents(line.encode(), "raw").refresh_token == REFRESH


def test_an_aws_secret_with_naive_iso_times_is_a_seed() -> None:
    """S6: ISO 8601 in UTC without an offset, microseconds, and fields of the user's own."""
    data = seed(
        access_token=ACCESS,
        refresh_token=REFRESH,
        expires_at="2023-11-14T23:13:20.500000",
        expires_in=3600,
        scope="openid email",
        token_type="Bearer",
        created_at="2023-11-01T00:00:00.000000",
        google_user_id="1",
        google_verified_email=True,
    )
    assert formats.recognise(data) == "json"
    found = formats.seed_contents(data)
    access, refresh = found.access(written_at=0, by_receiver=False), found.refresh(written_at=0)
    assert access is not None
    assert refresh is not None
    assert (access.expires_at, access.issued_at) == (1_700_003_600.5, 1_700_000_000.5)
    assert refresh.issued_at == datetime(2023, 11, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (1_700_000_000, 1_700_000_000.0),
        (1_700_000_000.5, 1_700_000_000.5),
        ("1700000000", 1_700_000_000.0),
        ("1700000000.5", 1_700_000_000.5),
        (1_700_000_000_500, 1_700_000_000.5),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T22:13:20", 1_700_000_000.0),
        ("2023-11-14T23:13:20.123456789+01:00", 1_700_000_000.123456),
        ("2023-11-14 22:13:20+00:00", 1_700_000_000.0),
        (0, 0.0),
        (None, None),
        ("", None),
        ("0001-01-01T00:00:00Z", None),
        (-62135596800, None),
        (253402300799.0, None),
        (253402300799000, None),
        ("9999-12-31T23:59:59Z", None),
    ],
    ids=short,
)
def test_times_in_the_wild(written: object, seconds: float | None) -> None:
    """Epoch seconds and milliseconds, as number or string, and ISO 8601; Go's zero time says nothing."""
    assert PLAIN.decode(seed(expires_at=written)).expires_at == pytest.approx(seconds)
    assert PLAIN.decode(seed(expiry=written)).expires_at == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", [True, "soon", [], {}, 1e30, 10**400, "nan", "1_000", "inf", -(10**400)], ids=short
)
@pytest.mark.parametrize("name", ["expires_at", "expires_in", "created_at", "refresh_token_expires_in"])
def test_what_is_no_time_is_refused_by_the_members_name(name: str, written: object) -> None:
    """The message names the member and never its value; only a duration may be as long as it likes."""
    if written == 1e30 and name.endswith("_in"):
        return
    with pytest.raises(FormatError, match=rf"member `{name}` is not|not valid JSON"):
        PLAIN.decode(seed(**{name: written}))


@pytest.mark.parametrize("expires_in", [0, -5, None, "", 1e11])
def test_a_lifetime_that_says_nothing(expires_in: object) -> None:
    """Zero and less are no lifetime, so the expiry is assumed from when the file was written."""
    access = PLAIN.decode(seed(access_token=ACCESS, expires_in=expires_in)).access(
        written_at=1e9, by_receiver=True
    )
    assert access is not None
    assert (access.expires_at, access.expiry_source) == (1e9 + 1800, ExpirySource.ASSUMED)


def test_a_lone_lifetime_counts_from_when_the_receiver_wrote_the_file() -> None:
    """An application that refreshed by itself wrote the file then."""
    access = PLAIN.decode(seed(access_token=ACCESS, expires_in=60)).access(written_at=1e9, by_receiver=True)
    assert access is not None
    assert (access.issued_at, access.expires_at, access.ttl) == (1e9, 1e9 + 60, 60)


def test_a_refresh_tokens_life_needs_a_time_to_count_from() -> None:
    """A remaining life without any time in the content gives no deadline; the file's age is not one."""
    found = PLAIN.decode(seed(refresh_token=REFRESH, refresh_expires_in=1800)).refresh(written_at=1e9)
    assert found is not None
    assert found.expires_at is None
    anchored = PLAIN.decode(seed(refresh_token=REFRESH, refresh_expires_in=1800, created_at=5)).refresh(
        written_at=1e9
    )
    assert anchored is not None
    assert (anchored.issued_at, anchored.expires_at) == (5, 1805)
    explicit = PLAIN.decode(seed(refresh_token=REFRESH, refresh_token_expires_at=77)).refresh(written_at=1e9)
    assert explicit is not None
    assert explicit.expires_at == 77


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "single line"),
        (b"\x00\xff\xfe", "single line"),
        (b"<html>\n<body>Bad gateway", "single line"),
        (b"<html/>", "not a bare refresh token"),
        (b"TOKEN=sim-rt-0123456789abcdef", "not a bare refresh token"),
        (b"A_REFRESH_TOKEN=sim-rt-1\nB_REFRESH_TOKEN=sim-rt-2", "2 variables with a refresh token"),
        (b"REFRESH_TOKEN=sim-rt-1\nREFRESH_TOKEN=sim-rt-2", "line 2 sets a variable that was set before"),
        (b"REFRESH_TOKEN=sim-rt-1\nnothing else", "line 2 is no `NAME=value`"),
        (b"Authorization: Bearer sim-at-0123456789abcdef", "an access token and no refresh token"),
        (b"machine a\nlogin b\npassword sim-at-0123456789abcdef", "an access token and no refresh token"),
        (b'{"refresh_token": "sim-rt-1", "refresh_token": "sim-rt-2"}', "a member comes twice"),
        (b'"sim-rt-0123456789abcdef"', "not a bare refresh token"),
        (b"refresh_token: sim-rt-0123456789abcdef", "single line"),
        (b'{"refresh_token": "sim-rt-01234', "not valid JSON"),
        (b'{"refresh_token": "sim-rt-\xff\xfe"}', "not valid JSON"),
        (b"[" * 100_000, "not a bare refresh token"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"refresh_token": ["sim-rt-0123456789abcdef"]}', "member `refresh_token` is not a string"),
        (b'{"error": "invalid_grant", "error_description": "sim-rt-0123456789abcdef"}', "error answer"),
        (b'{"installed": {"client_secret": "sim-cs-0123456789abcdef"}}', "credentials.json"),
        (b'{"type": "service_account", "private_key": "sim-cs-0123456789abcdef"}', "service account"),
    ],
    ids=short,
)
def test_what_is_no_seed_is_refused_without_quoting_it(data: bytes, why: str) -> None:
    """Each kind of mistake has its own words, and neither message nor traceback holds the content."""
    with pytest.raises(FormatError, match=why) as refused:
        formats.seed_contents(data)
    error: BaseException | None = refused.value
    while error is not None:
        assert "sim-" not in repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_seeds_format_must_be_one_of_seeds() -> None:
    """`header` is a format of outputs only."""
    with pytest.raises(FormatError, match="no format of seeds"):
        formats.seed_contents(b"x", "header")


def test_contents_hide_their_secrets() -> None:
    """A traceback that shows them shows fingerprints."""
    assert "sim-" not in repr(Contents(access_token=ACCESS, refresh_token=REFRESH))


@pytest.mark.parametrize("data", [b"Bearer sim-at-0123456789abcdef", b"Authorization: Basic eA==", b""])
def test_a_header_that_is_none(data: bytes) -> None:
    """Only a bearer line is read back as one."""
    header = next(form for form in formats._PLAIN.values() if form.name == "header")
    with pytest.raises(FormatError):
        header.decode(data)


def test_valid_json_that_is_no_object_is_refused() -> None:
    """A list of tokens is not a token."""
    with pytest.raises(FormatError, match="not an object"):
        PLAIN.decode(b"[]")
