from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from urllib.parse import unquote_plus

import pytest

from sidecar.clients.http import Sealed
from sidecar.config.settings import Client
from sidecar.errors import ConfigError
from sidecar.grants.client import ClientIdentity, Credentials
from sidecar.profile import AuthMethod, GrantType, Profile

SECRET = "sim-cs-0123456789abcdef"
OTHER = "sim-cs-fedcba9876543210"
GOOGLE = {
    "client_id": "app.example",
    "client_secret": SECRET,
    "token_uri": "https://oauth2.googleapis.com/token",
}


def identity(profile: Profile | None = None, **settings: object) -> ClientIdentity:
    """Make a client from settings."""
    return ClientIdentity(Client(**settings), profile or Profile())  # type: ignore[arg-type]


def problem(**settings: object) -> str:
    """Return the message about settings that can't be used, which must hold no secret."""
    with pytest.raises(ConfigError) as caught:
        identity(None, **settings).credentials()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or isinstance(caught.value.__context__, OSError)
    text = str(caught.value)
    assert SECRET not in text
    return text


@pytest.mark.parametrize("kind", ["installed", "web"])
def test_googles_credentials_are_read_as_they_are(tmp_path: Path, kind: str) -> None:
    """Both kinds of download name id and secret in the same way."""
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps({kind: GOOGLE}))
    assert identity(file=file).credentials() == Credentials("app.example", SECRET, AuthMethod.POST)


def test_id_and_secret_come_from_files_without_their_newlines(tmp_path: Path) -> None:
    """Editors and `echo` end files with a newline, and Windows begins them with a mark."""
    (tmp_path / "id").write_text("\ufeffapp\n")
    (tmp_path / "secret").write_text(f"{SECRET}\r\n")
    client = identity(id_file=tmp_path / "id", secret_file=tmp_path / "secret")
    assert client.credentials() == Credentials("app", SECRET, AuthMethod.POST)
    assert client.files == (tmp_path / "id", tmp_path / "secret")


def test_a_secret_of_ones_own_comes_before_the_one_in_the_download(tmp_path: Path) -> None:
    """A secret that was rotated need not be edited into Google's file."""
    (tmp_path / "credentials.json").write_text(json.dumps({"web": GOOGLE}))
    (tmp_path / "secret").write_text(OTHER)
    client = identity(file=tmp_path / "credentials.json", secret_file=tmp_path / "secret")
    assert client.credentials().secret == OTHER


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A rotated secret counts from the next call on, and changes the fingerprint."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    client = identity(id="app", secret_file=file)
    before = client.credentials()
    replacement = tmp_path / "new"
    replacement.write_text(OTHER)
    replacement.replace(file)
    after = client.credentials()
    assert (before.secret, after.secret) == (SECRET, OTHER)
    assert before.fingerprint != after.fingerprint


def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking at a file's attributes is enough."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    client = identity(id="app", secret_file=file)
    client.credentials()
    monkeypatch.setattr(Path, "open", None)
    assert client.credentials().secret == SECRET


def test_a_file_that_becomes_broken_is_told(tmp_path: Path) -> None:
    """The old secret is not used on, since nobody could tell which one is in force."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    client = identity(id="app", secret_file=file)
    client.credentials()
    file.write_text("")
    with pytest.raises(ConfigError, match="is empty"):
        client.credentials()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; download"),
        (b"{", "is not JSON"),
        (b"[" * 60_000, "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "has neither `installed` nor `web`"),
        (b'{"installed": {}}', "has neither"),
        (b'{"installed": {"client_secret": "sim-cs-0123456789abcdef"}}', "has no client_id"),
        (b'{"installed": {"client_id": 7}}', "client_id that is not a non-empty string"),
        (b'{"web": {"client_id": "a", "client_secret": ["sim-cs-0123456789abcdef"]}}', "has a client_secret"),
        (
            b'{"type": "service_account", "private_key": "sim-cs-0123456789abcdef"}',
            "the key of a service account",
        ),
        (b"\xff\xfe\x00sim-cs-0123456789abcdef", "is not UTF-8"),
        (b" " * 70_000, "is larger than 64 KiB"),
    ],
    ids=range(12),
)
def test_a_download_that_is_none_is_explained(tmp_path: Path, content: bytes, reason: str) -> None:
    """Key, file, reason, remedy, and nothing of the content."""
    file = tmp_path / "credentials.json"
    file.write_bytes(content)
    assert f"client.file {file}: " in problem(file=file)
    assert reason in problem(file=file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty; write the client's secret into it"),
        (" \n", "is empty"),
        (f"{SECRET}\nmore\n", "more than one line"),
        (f"{SECRET}\0", "not text"),
    ],
)
def test_a_secret_file_that_holds_no_secret_is_explained(tmp_path: Path, content: str, reason: str) -> None:
    """An empty secret never turns a confidential client into a public one."""
    file = tmp_path / "secret"
    file.write_text(content)
    assert reason in problem(id="app", secret_file=file)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    """The path is in the message, and what to do."""
    path = tmp_path / "secret"
    text = problem(id="app", secret_file=path)
    assert text == f"client.secret_file {path}: no such file or directory; create it or correct the path"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_we_may_not_read_is_explained(tmp_path: Path) -> None:
    """Permissions are named as the reason."""
    path = tmp_path / "secret"
    path.touch(mode=0)
    assert "permission denied" in problem(id="app", secret_file=path)


def test_a_missing_id_is_explained() -> None:
    """There is no client without one."""
    assert "id is missing" in problem(secret=SECRET)


@pytest.mark.parametrize(
    "settings",
    [
        {"id": "app", "id_file": Path("/id")},
        {"id": "app", "file": Path("/credentials.json")},
        {"id": "app", "secret": SECRET, "secret_file": Path("/secret")},
    ],
    ids=["id twice", "id and file", "secret twice"],
)
def test_two_places_for_one_thing_are_refused(settings: dict[str, object]) -> None:
    """Nobody could tell which one counts."""
    assert "keep one" in problem(**settings)


@pytest.mark.parametrize(
    ("asked", "default", "secret", "method"),
    [
        (None, AuthMethod.POST, SECRET, AuthMethod.POST),
        (None, AuthMethod.BASIC, SECRET, AuthMethod.BASIC),
        (None, AuthMethod.POST, None, AuthMethod.NONE),
        (AuthMethod.BASIC, AuthMethod.POST, SECRET, AuthMethod.BASIC),
        (AuthMethod.NONE, AuthMethod.POST, SECRET, AuthMethod.NONE),
    ],
    ids=range(5),
)
def test_the_method_is_the_settings_then_the_profiles(
    asked: AuthMethod | None, default: AuthMethod, secret: str | None, method: AuthMethod
) -> None:
    """And none for a public client, which has no secret."""
    client = identity(Profile(auth_method=default), id="app", secret=secret, auth_method=asked)
    assert client.credentials().method is method


def test_a_method_that_needs_a_secret_has_one() -> None:
    """What was asked for by name is never silently dropped."""
    assert "needs a secret" in problem(id="app", auth_method=AuthMethod.BASIC)


def test_client_credentials_need_a_secret() -> None:
    """RFC 6749 §4.4: confidential clients only."""
    client = identity(Profile(grant=GrantType.CLIENT_CREDENTIALS), id="app")
    with pytest.raises(ConfigError, match="needs a secret"):
        client.credentials()


def test_basic_form_encodes_both_parts() -> None:
    """RFC 6749 §2.3.1: colons, spaces and umlauts survive, and nothing of it is in the form."""
    client_id, secret = "a:b c", "sim-cs-0123456789+/%ü&="
    form, headers = Credentials(client_id, secret, AuthMethod.BASIC).authenticate(Sealed(a="b"))
    pair = base64.b64decode(headers["Authorization"].removeprefix("Basic ")).decode()
    assert pair == "a%3Ab+c:sim-cs-0123456789%2B%2F%25%C3%BC%26%3D"
    assert [unquote_plus(part) for part in pair.split(":")] == [client_id, secret]
    assert dict(form) == {"a": "b"}


@pytest.mark.parametrize(
    ("method", "added"),
    [
        (AuthMethod.POST, {"client_id": "app", "client_secret": SECRET}),
        (AuthMethod.NONE, {"client_id": "app"}),
    ],
)
def test_the_other_methods_are_in_the_form(method: AuthMethod, added: dict[str, str]) -> None:
    """And send no header."""
    form, headers = Credentials("app", SECRET, method).authenticate(Sealed(a="b"))
    assert (dict(form), dict(headers)) == ({"a": "b", **added}, {})


def test_credentials_hide_their_secret() -> None:
    """In `repr`, and so in tracebacks."""
    credentials = Credentials("app", SECRET, AuthMethod.POST)
    assert SECRET not in repr(credentials)
    assert SECRET not in repr(credentials.authenticate(Sealed()))
    assert SECRET not in str(credentials.authenticate(Sealed())[0])
